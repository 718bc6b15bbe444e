"""`pilotlight trigger`: a queue of an agent file on the platform of this machine, from send to replay."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from knative.client.cluster import Cluster
from knative.client.resources import TRIGGER
from pilotlight.cli.trigger import app

# Takes every event but those with "bad" in them, which it takes once the file `mended` is there.
FUNCTION = """
import http.server, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        good = b"bad" not in body or pathlib.Path(os.environ["MENDED"]).exists()
        answer = b'{"done": true}' if good else b"the order has no customer"
        print(self.headers["ce-id"], body, flush=True)
        self.send_response(200 if good else 422)
        self.send_header("Content-Type", "application/json" if good else "text/plain")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((os.environ["PILOTLIGHT_HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def agent(tmp_path) -> Path:
    stage = {
        "name": "orders",
        "kind": "container",
        "image": "registry.example.com/orders",
        "command": ["python", "-c", FUNCTION],
        "env": {"MENDED": str(tmp_path / "mended")},
    }
    trigger = {
        "name": "orders",
        "path": "/",
        "source": {"sqs": {"queue": "orders"}},
        "deadLetter": {"sqs": {"queue": "orders-dead-letter"}},
    }
    spec = {"stages": [stage], "triggers": [trigger]}
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "shop"},
        "spec": spec,
    }
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


class Triggers:
    """The commands against the running platform."""

    def __init__(self, cli) -> None:
        self._cli = cli
        self._kubeconfig = str(cli.state / "kubeconfig")

    def run(self, *args: str) -> Any:
        """As a process."""
        return self._cli.run("trigger", *args, "--kubeconfig", self._kubeconfig)

    def call(self, *args: str) -> str:
        """In this process, which is a second faster; what it prints."""
        answer = CliRunner().invoke(app, [*args, "--kubeconfig", self._kubeconfig])
        assert answer.exit_code == 0, answer.output
        return answer.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.call(*args, "--json"))

    def until(self, check: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The status of the only trigger once it is so."""

        async def wait() -> dict[str, Any]:
            async with Cluster.from_kubeconfig(Path(self._kubeconfig)) as cluster, asyncio.timeout(60):
                async for _, trigger in cluster.watch(TRIGGER, "default"):
                    if check(status := trigger.get("status") or {}):
                        return status
            raise AssertionError("a watch does not end")

        return asyncio.run(wait())


def test_messages_from_send_to_replay(cli, agent, tmp_path):
    running = cli.start("up", "--port", "0", "--api-port", "0", "--state", str(cli.state), "-f", str(agent))
    output = running.until(lambda text: "Ctrl-C stops" in text)
    assert "trigger/orders-shop created" in output
    assert "pilotlight trigger send orders-shop '{}'" in output
    triggers = Triggers(cli)

    assert (
        triggers.run("send", "orders-shop", '{"order": 1}').stdout
        == "sent 12 bytes to the queue of default/orders-shop\n"
    )
    status = triggers.until(lambda status: status.get("delivered") == 1)
    assert (status["source"], status["target"]) == ("sqs/orders", "orders-shop")
    assert {one["type"]: one["status"] for one in status["conditions"]} == dict.fromkeys(
        ("Ready", "SourceReady", "TargetReady", "DestinationsReady"), "True"
    )
    assert "default/orders-shop" in triggers.call("ls")

    triggers.json("send", "orders-shop", "bad order", "-a", "tenant=x7")
    triggers.until(lambda status: status.get("deadLettered") == 1)
    [letter] = triggers.json("dlq", "ls", "orders-shop")
    shown = triggers.json("dlq", "show", "orders-shop", letter["id"])
    assert shown["reason"] == "rejected: http-422"
    assert shown["response"] == "the order has no customer"
    assert (shown["body"], shown["attributes"]) == ("bad order", {"tenant": "x7"})
    assert shown["trigger"] == "default/orders-shop"

    (tmp_path / "mended").touch()
    replayed = triggers.json("dlq", "replay", "orders-shop", letter["id"])
    assert replayed == {"replayed": [letter["id"]], "missing": []}
    triggers.until(lambda status: status.get("delivered") == 2)
    assert triggers.json("dlq", "ls", "orders-shop") == []
    events = [
        line.split()[0]
        for line in cli.run("logs", "orders-shop", "--state", str(cli.state))
        .stdout.replace("| ", "|")
        .split("|")
        if "bad" in line
    ]
    assert len(set(events)) == 1, "the replayed event is the same one"

    triggers.call("pause", "orders-shop")
    triggers.until(lambda status: status["conditions"][0]["reason"] == "Paused")
    triggers.call("send", "orders-shop", "waits")
    assert triggers.until(lambda status: status.get("backlog") == 1)["delivered"] == 0
    triggers.call("resume", "orders-shop")
    triggers.until(lambda status: status.get("delivered") == 1)

    refused = triggers.run("dlq", "show", "orders-shop", "nothing")
    assert (
        refused.returncode,
        refused.stderr.splitlines()[-1].count("there is no dead letter 'nothing'"),
    ) == (2, 1)
    missing = triggers.run("dlq", "replay", "orders-shop", "nothing")
    assert (missing.returncode, missing.stderr) == (1, "error: there is no dead letter nothing\n")
    unknown = triggers.run("show", "unknown")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert running.interrupt() == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["send", "x"], "give the body as an argument, or with --file"),
        (["send", "x", "body", "-a", "novalue"], "must be NAME=VALUE"),
        (["send", "x", "--file", "/nowhere"], "No such file"),
        (["dlq", "replay", "x"], "give the IDs of dead letters, or --all"),
    ],
)
def test_what_is_given_wrongly_is_said_before_anything_is_asked(cli, arguments, says):
    answer = cli.run("trigger", *arguments)
    assert answer.returncode == 2
    assert says in answer.stderr.replace("\n", " ")
