"""What `prove_image.sh` runs inside a container, with the image's own Python and packages."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT_S = 300


def main() -> None:
    """`model DIR`, or `functions|controller|triggers ENTRYPOINT...`; prints one JSON object or fails."""
    what, *rest = sys.argv[1:]
    if what == "model":
        make_model = importlib.import_module("weights.make_model").make_model
        sys.stderr.write(f"a model of {make_model(Path(rest[0])).parameters} parameters\n")
        return
    _root_is_read_only()
    began = time.monotonic()
    found = _generate(rest) if what == "functions" else _against_a_platform(what, rest)
    seconds = round(time.monotonic() - began, 1)
    sys.stdout.write(json.dumps({"uid": os.getuid(), "gid": os.getgid(), "seconds": seconds, **found}) + "\n")


def _generate(entrypoint: list[str]) -> dict[str, Any]:
    variables = {"PORT": "8080", "PILOTLIGHT_AUTH": "none", "PILOTLIGHT_MODEL_NAME": "demo"}
    variables |= {"PILOTLIGHT_MODEL_URI": "/mnt/model/demo", "PILOTLIGHT_ENGINE": "vllm"}
    began = time.monotonic()
    with _running(entrypoint, variables) as program:
        _wait("http://127.0.0.1:8080/healthz/ready", program)
        ready = round(time.monotonic() - began, 1)
        body = {"input": "How do I reset my password?", "parameters": {"max_tokens": 8}}
        answer = json.loads(_post("http://127.0.0.1:8080/invoke", body))
    if not answer["usage"]["completion_tokens"]:
        sys.exit(f"an answer without a token: {answer}")
    return {"ready_seconds": ready, "usage": answer["usage"], "exit": program.returncode}


def _against_a_platform(what: str, entrypoint: list[str]) -> dict[str, Any]:
    """The program of the image against a Kubernetes API on loopback: ready by its own health check."""
    up = ["pilotlight", "up", "--state", "/tmp/state", "--port", "8080", "--api-port", "8081"]
    with _running(up, {}) as platform:
        _wait("http://127.0.0.1:8081/readyz", platform)
        options = ["--kubeconfig", "/tmp/state/kubeconfig", "--host", "127.0.0.1", "--port", "9464"]
        with _running([*entrypoint, *options], {}) as program:
            _wait("http://127.0.0.1:9464/healthz/ready", program)
        return {"program": what, "exit": program.returncode}


@contextlib.contextmanager
def _running(command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, env=os.environ | variables, stdout=2, stderr=2) as program:
        try:
            yield program
        finally:
            program.terminate()
            program.wait(60)


def _root_is_read_only() -> None:
    for folder in ("/", "/opt/pilotlight", "/etc", "/home"):
        try:
            Path(folder, "written").write_text("")
        except OSError:
            continue
        raise SystemExit(f"{folder} can be written")


def _wait(url: str, program: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            if time.monotonic() > ends or program.poll() is not None:
                raise
            time.sleep(0.2)


def _post(url: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        text: str = reply.read().decode()
        return text


main()
