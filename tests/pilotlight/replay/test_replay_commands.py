"""`pilotlight experiment replay`, `calibrate` and `compare` as a user runs them, against a real platform."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pilotlight.cli.experiment import app
from pilotlight.cli.failures import exit_code
from pilotlight.replay.errors import ReplayError
from pilotlight.replay.exchange import Dialect, Exchange
from pilotlight.replay.sender import Planned
from pilotlight.replay.session import Replay
from pilotlight.replay.values import ReplayPlan, ReplayProgress, ResultsFile
from tests.pilotlight.replay.conftest import TIMING, event
from warmpool.adapters.history import SqliteHistory
from warmpool.domain.cold_start import ColdStart
from warmpool.experiments.experiment import read_model
from warmpool.experiments.replay_results import read_results

# A function of the user's own that takes a stage's requests: 30 ms, and 2 ms for each token.
FUNCTION = """
import http.server, json, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = body["parameters"]["max_tokens"]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        time.sleep(0.03)
        for _ in range(tokens):
            self.event("delta", {"text": "x"})
            time.sleep(0.002)
        usage = {"prompt_tokens": len(body["input"].split()), "completion_tokens": tokens}
        self.event("reply", {"output": "x", "usage": usage})
    def event(self, name, data):
        self.wfile.write(f"event: {name}\\ndata: {json.dumps(data)}\\n\\n".encode())
        self.wfile.flush()
    def log_message(self, *args):
        pass
time.sleep(0.5)
http.server.ThreadingHTTPServer((os.environ["PILOTLIGHT_HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
POOL = {"enabled": False, "windows": [{"name": "always", "from": "00:00", "to": "24:00", "replicas": 1}]}


@pytest.fixture
def platform(cli, tmp_path):
    """`pilotlight up` with that function; gives its URL."""
    script = tmp_path / "function.py"
    script.write_text(FUNCTION)
    stage = {
        "name": "answer",
        "kind": "container",
        "image": "example.com/answer:1",
        "command": ["python", str(script)],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "scaling": {"max": 1, "window": "6s", "containerConcurrency": 4},
        "warmPool": POOL,
    }
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "small"},
        "spec": {"stages": [stage]},
    }
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    running = cli.start(
        "up", "-f", str(path), "--port", "0", "--api-port", "0", "--state", str(cli.state)
    )  # fmt: skip
    running.until(lambda text: "curl -N" in text)
    url = next(word for word in running.output.split() if word.startswith("http://127.0.0.1"))
    running.url = f"{url}/default/answer-small/invoke"
    return running


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    rows = [f"{2 * index},{10 + index % 3 * 20},{3 + index % 5 * 4}" for index in range(12)]
    path.write_text("timestamp,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return path


def pool(cli):
    shown = cli.run("pool", "show", "answer-small", "--kubeconfig", str(cli.state / "kubeconfig"))
    return yaml.safe_load(shown.stdout)["spec"]


@pytest.mark.timeout(290)
def test_a_trace_is_replayed_with_the_pool_off_and_on_and_simulated_beside_it(cli, platform, trace, tmp_path):
    before = pool(cli)
    out = tmp_path / "out"
    where = ("--state", str(cli.state), "-o", str(out))

    ran = cli.run(
        "experiment", "replay", str(trace), "--url", platform.url, "--speed", "4", *where, timeout=120
    )

    assert ran.returncode == 0, ran.stderr
    results = read_results(out / "replay.jsonl")
    off, on = results.arms
    assert (results.header.service, results.header.container_concurrency) == ("default/answer-small", 4)
    assert [arm.arm for arm in results.arms] == ["pool off", "pool on"]
    assert (off.complete, on.complete, off.floor, on.floor) == (True, True, None, 1)
    # Only the activator's queue tells of a start here, and the pod that became ready meanwhile.
    assert results.of("pool off")[0].cold is True
    assert [request.cold for request in results.of("pool on")] == [False] * 12
    assert all(request.error is None and request.output_tokens for request in results.requests)
    assert {len(arm.starts) for arm in results.arms} == {1}
    for arm in results.arms:
        assert arm.gpu.source == "platform"
        assert arm.gpu.total == pytest.approx(arm.gpu.starting + arm.gpu.busy + arm.gpu.idle, abs=0.01)
        assert 5 < arm.gpu.total < 40
    assert pool(cli) == before
    assert not list(out.glob("*.pools.yaml"))
    for shown in ("pool off", "end-to-end p95", "GPU-seconds", "a fit to this very replay", "12 answered"):
        assert shown in ran.stdout
    report = json.loads((out / "replay.json").read_text())
    for arm in report["arms"]:
        assert arm["cold_starts"]["live"] == arm["cold_starts"]["simulated"]
        assert abs(arm["gpu_s"]["error"]) < 0.3
    assert "<svg" in (out / "replay.html").read_text()

    fitted = cli.run("experiment", "calibrate", str(out / "replay.jsonl"), "--least-starts", "2")
    (tmp_path / "calibration.yaml").write_text(fitted.stdout)
    service, replica = read_model(tmp_path / "calibration.yaml")
    assert 0.002 <= service.output_token_seconds < 0.01
    assert service.base_seconds >= 0.02
    assert (replica.concurrency, replica.gpus) == (4, 1)
    assert replica.cold_start.seconds > 0.5
    few = cli.run("experiment", "calibrate", str(out / "replay.jsonl"), "--least-warm", "500")
    assert few.returncode == 2
    assert "warm requests and 2 starts: a service time needs 500" in few.stderr

    probing = ("--starts", "1", "--warm", "10", "--company", "1", "--least-starts", "2", "--json")
    probed = cli.run("experiment", "calibrate", "--probe", platform.url, *where[:2], "-o", str(out / "probe"),
                     *probing, timeout=120)  # fmt: skip
    assert probed.returncode == 0, probed.stderr
    fit = json.loads(probed.stdout)
    assert (fit["service"]["requests"], fit["cold_start"]["starts"]) == (10, 2)
    assert 0.001 < fit["spec"]["service"]["outputTokenSeconds"] < 0.02
    assert pool(cli) == before

    same = cli.run("experiment", "compare", str(out / "replay.jsonl"), str(out / "replay.jsonl"))
    assert same.returncode == 0
    assert "may be chance" in same.stdout


@pytest.mark.timeout(200)
def test_ctrl_c_and_a_killed_platform_leave_what_was_answered_and_the_pools_as_they_were(
    cli, platform, trace, tmp_path
):
    before = pool(cli)
    out = tmp_path / "out"
    file = tmp_path / "arms.yaml"
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "arms"},
        "spec": {
            "trace": {"file": "trace.csv"},
            "service": {"baseSeconds": 0.03, "inputTokenSeconds": 0, "outputTokenSeconds": 0.002},
            "arms": [
                {"name": "always two", "fixed": 2},
                {"name": "none", "autoscalerOnly": True},
                {"name": "larger", "autoscalerOnly": True, "replica": {"hourly": 4}},
            ],
        },
    }
    file.write_text(yaml.safe_dump(document))
    command = (
        "experiment",
        "replay",
        str(file),
        "--url",
        platform.url,
        "--state",
        str(cli.state),
        "-o",
        str(out),
    )

    larger = cli.run(*command)
    replaying = cli.start(*command, "--arm", "none")
    replaying.until(lambda text: "none: sending" in text)
    wait_for(lambda: '"kind": "request"' in (out / ".replay.jsonl.new").read_text())
    code = replaying.interrupt()

    assert larger.returncode == 2
    assert "arm 'larger' has a replica of its own" in larger.stderr
    assert code == 130, replaying.output
    assert "interrupted: the results have what was answered" in replaying.output
    results = read_results(out / "replay.jsonl")
    assert 1 <= len(results.of("none")) < 12
    assert not results.arms[0].complete
    assert pool(cli) == before

    replaying = cli.start(*command, "--arm", "none", "--speed", "4")
    replaying.until(lambda text: "none: sending" in text)
    platform.process.send_signal(signal.SIGKILL)
    assert replaying.process.wait(60) == 1
    assert "WarmPool answer-small: " in replaying.output
    assert f"kubectl apply -f {out / 'replay.pools.yaml'}" in replaying.output
    kept = yaml.safe_load((out / "replay.pools.yaml").read_text())
    assert (kept["kind"], kept["spec"]) == ("WarmPool", before)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(*arguments):
    """A command in this process; what it raised, else its exit code."""
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"KUBECONFIG": ""})
    return result.exit_code if isinstance(result.exception, SystemExit | None) else result.exception


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--url", "nowhere"], 2, "--url nowhere: must be a URL such as http://localhost:8080/"),
        (["--url", "http://127.0.0.1:9/default/a/invoke", "--as-it-is"], 1, "nobody answers there"),
        (["--url", "http://localhost:9/"], 2, "does not tell which Service it is; give --service"),
        (["--url", "http://localhost:9/a/b", "--calibration", "nothing.yaml"], 2, "cannot be read"),
        (["--url", "http://localhost:9/a/b", "--kubeconfig", "none"], 1, "kubeconfig none is no file"),
        (["--url", "http://localhost:9/a/b", "--as-it-is", "-o", "/proc/none"], 1, "cannot be written"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_a_line(trace, monkeypatch, arguments, code, message):
    monkeypatch.chdir(trace.parent)

    error = run("replay", trace, *arguments)

    assert exit_code(error) == code
    assert message in str(error)
    assert not list(trace.parent.glob("build/replays/*/*"))


def test_a_trace_without_requests_is_refused_and_a_history_needs_its_service(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("timestamp\n")
    history = tmp_path / "warmpool.db"
    history.write_text("no database")

    assert "no requests" in str(run("replay", empty, "--url", "http://localhost:9/a/b"))
    assert "--service NAMESPACE/NAME must say whose cold starts" in str(run("calibrate", history))
    assert "not a history of the controller" in str(run("calibrate", history, "--service", "answer"))
    assert run("calibrate") == 2
    assert run("replay", empty, "--url", "http://localhost:9/a/b", "--speed", "0") == 2


def test_cold_starts_are_read_from_the_history_of_the_controller(tmp_path):
    path = tmp_path / "warmpool.db"
    history = SqliteHistory(path)
    for minute in range(6):
        phases = {"import": 2.0, "weights": 1.0 + minute}
        start = ColdStart(datetime(2026, 3, 2, 12, minute, tzinfo=UTC), 4.0 + minute / 10, phases)
        history.add_cold_start(("default", "generate-support"), start)
    assert history.flush()
    history.close()

    result = CliRunner().invoke(app, ["calibrate", str(path), "--service", "generate-support"])

    assert result.exit_code == 0, result.output
    assert 4.2 < yaml.safe_load(result.stdout)["replica"]["coldStart"]["median"] < 4.3
    assert "import 2.00 s" in result.stdout
    assert "no service time: there are fewer than 10" in result.stderr


async def test_a_url_alone_is_replayed_as_it_is(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp\n" + "\n".join(str(index / 100) for index in range(15)) + "\n")
    reply = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "timings": [TIMING]}
    function.pieces = [event({"text": "a"}, "delta"), event({"text": "a"}, "delta"), event(reply, "reply")]
    command = ("replay", trace, "--url", f"{function.url}/invoke", "--as-it-is", "--json")

    code = await asyncio.to_thread(run_in_process, *command)

    assert code.returncode == 0, code.stderr
    report = json.loads(code.stdout)
    assert [arm["arm"] for arm in report["arms"]] == ["as it is"]
    assert report["arms"][0]["requests"] == 15
    assert report["arms"][0]["gpu_s"]["live"] is None


def run_in_process(*arguments):
    """Signal handlers need a main thread of their own."""
    command = [Path(sys.executable).with_name("pilotlight"), "experiment", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_a_full_disk_ends_the_replay_with_the_name_of_the_file(function):
    with Path("/dev/full").open("w") as full:
        plan = ReplayPlan(
            Exchange(f"{function.url}/", Dialect.GET), "trace", [Planned(0, 0.0, 1, 1)], arms=()
        )
        results = ResultsFile(full, Path("build/replay.jsonl"))
        with pytest.raises(ReplayError, match=r"build/replay\.jsonl: cannot be written: No space left"):
            await Replay(plan, None, results, ReplayProgress()).run(asyncio.Event())
        # What the stream still holds cannot be written either when it is closed.
        with suppress(OSError):
            full.close()
