"""A pod made by hand from the rendered manifest: user 10001, read-only root, the cache on a mounted folder."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from tests.pilotlight.pod_by_hand import UID, running
from tests.weights.s3 import free_port, s3_server

pytestmark = pytest.mark.vllm

GUIDE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()


def agent(folder: Path, uri: str, s3_environment: dict[str, str]) -> dict[str, Any]:
    """The pod's spec of an agent with the settings of the guide for a read-only root."""
    block = GUIDE.split("### A read-only root file system")[1].split("```yaml\n")[1].split("```")[0]
    settings = yaml.safe_load(block)["spec"]
    args = {"max-model-len": 256, "max-num-seqs": 4, "enforce-eager": True, "dtype": "float32", "seed": 0}
    spec = {
        **settings,
        "auth": "none",
        "env": {**s3_environment, **settings["env"]},
        "model": {"uri": uri, "name": "tiny"},
        "cache": {"persistentVolumeClaim": {"claimName": "weights"}},
        "stages": [{"name": "generate", "kind": "generate", "engine": {"type": "vllm", "args": args}}],
    }
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "chat"},
        "spec": spec,
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    (service,) = compile_agent(load_agent(path))
    return service["spec"]["template"]["spec"]


def ask(port: int) -> str:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)["choices"][0]["text"]


def wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 150
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)


def test_it_serves_twice_and_the_second_time_without_a_download(made_model, tmp_path):
    requests = tmp_path / "s3.log"
    with s3_server(requests) as s3:
        uri = s3.upload(made_model.path, "models", "tiny")
        pod = agent(tmp_path, uri, s3.environment)
        cache = tmp_path / "cache"
        cache.mkdir()
        texts, downloads = [], []
        for turn in ("first", "second"):
            folder, scratch, port = tmp_path / turn, tmp_path / turn / "scratch", free_port()
            scratch.mkdir(parents=True)
            volumes = {"pilotlight-cache": cache, "scratch": scratch}
            before = len(requests.read_text())
            with running(pod, volumes, folder, port) as process:
                wait_until_ready(port, process, folder / "container.log")
                texts.append(ask(port))
            lines = requests.read_text()[before:].splitlines()
            downloads.append([line for line in lines if "GET /models/tiny/" in line])
    assert texts[0]
    assert texts[0] == texts[1]
    assert any("model.safetensors" in line for line in downloads[0])
    assert downloads[1] == []
    owners = {path.stat().st_uid for path in (cache / "blobs").iterdir()}
    assert owners == {UID}
