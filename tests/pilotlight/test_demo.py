"""The demo as a user runs it: real vLLM, real S3 endpoint, real processes."""

import json
import signal
import time

import psutil
import pytest

pytestmark = pytest.mark.vllm


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def runs(process: psutil.Process, module: str) -> bool:
    try:
        return any(module in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(420)
def test_demo_answers_every_prompt_and_the_pool_spares_the_cold_start(cli, tmp_path):
    build = tmp_path / "demo"
    result = cli.run("demo", "--build", str(build), "--port", "0", timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((build / "report.json").read_text())
    assert report["engine"]["name"] == "vllm"
    assert report["engine"]["version"][0].isdigit()
    assert report["model_parameters"] > 1_000_000
    assert (report["requests"], report["failures"]) == (40, 0)
    off, on = report["arms"]["pool_off"], report["arms"]["pool_on"]
    assert off["cold_starts"] >= 1
    assert on["cold_starts"] == 0
    assert on["ttft_max_s"] < off["ttft_max_s"]
    assert off["idle_gpu_s"] > 0 < on["idle_gpu_s"]
    assert off["cost"] > 0 < on["cost"]
    assert {"import", "weights", "init", "warmup"} <= set(report["phases"])
    assert all(request["tokens"] for arm in (off, on) for request in arm["requests"])
    # It ended at zero replicas in both arms, and had one while it served.
    for arm in (off, on):
        assert max(ready for _, ready, _ in arm["replicas"]) == 1
    if "left out: " not in result.stdout:
        assert report["restored"]["error"] is None
        assert {"restore", "weights", "init"} <= set(report["restored"]["phases"])
        assert "from a snapshot" in result.stdout
    month = {row["name"]: row for row in report["month"]["rows"]}
    assert set(month) >= {"pool off", "always on", "the agent file's windows"}
    assert month["always on"]["cost"] > month["the agent file's windows"]["cost"] > month["pool off"]["cost"]
    assert month["pool off"]["cold_starts"] > month["the agent file's windows"]["cold_starts"]
    assert (build / "month" / "report.html").stat().st_size > 10_000
    survived = report["survived"]
    assert (survived["killed_after"], survived["ends"]) == ("ingest", 1)
    assert survived["attempts"] >= 2
    assert survived["steps"] == {"ingest": 1, "generate": 1, "postprocess": 1}
    event = report["event"]
    assert event["trigger"] == "questions-support"
    assert event["warmth"] == "cold"
    assert 0 < event["answered_s"] <= event["acknowledged_s"] < 120
    assert event["text"]
    for shown in (
        "message in, cold start, answer out after",
        "What a user waited",
        "Where the cold start went",
        "What it cost",
        "What a month of it would cost",
        "curl -N http://",
    ):
        assert shown in result.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("after", "program", "ending"),
    [
        ("an S3 endpoint", "moto", (signal.SIGINT, 130)),
        ("deploy agent", "functions", (signal.SIGINT, 130)),
        ("deploy agent", "functions.engines.vllm.template", (signal.SIGTERM, 143)),
        ("deploy agent", "functions.engines.vllm.template", (signal.SIGKILL, -9)),
    ],
)
def test_however_it_is_ended_no_process_is_left_behind(cli, tmp_path, after, program, ending):
    number, code = ending
    running = cli.start("demo", "--build", str(tmp_path / "demo"), "--port", "0")
    running.until(lambda text: after in text)
    running.until(lambda _: any(runs(process, program) for process in running.descendants()))
    below = running.descendants()
    running.process.send_signal(number)
    assert running.process.wait(60) == code
    deadline = time.monotonic() + 15
    while (left := alive(below)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert "Traceback" not in running.output
