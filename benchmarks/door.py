"""What checking a key costs a stage: requests a second with a key over requests a second without.

The same stage (postprocess, a process of its own) answers `POST /invoke`, once to anyone (`auth: none`) and
once to 1,000 keys (`auth: keys`), with and without limits and counts. Load comes from wrk, a Debian package.

    python benchmarks/door.py            a table
    python benchmarks/door.py --json     one JSON object

Everything runs on this machine's loopback; ratios are medians over alternating rounds. On a machine that is
busy with other things, the processor time of a request says more than the rate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import wrk  # noqa: E402 - see above
from benchmarks.arguments import at_least  # noqa: E402
from functions.auth.api_keys import ID_BYTES, SALT_BYTES, SECRET_BYTES, new_key  # noqa: E402

KEYS = 1000
TARGET = 0.9


def make_keys(folder: Path) -> tuple[str, str]:
    """A thousand keys as a mounted Secret; one without limits, and one with all of them."""
    found = {}
    for number in range(KEYS):
        random = secrets.token_bytes(ID_BYTES + SALT_BYTES + SECRET_BYTES)
        limits = (
            {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "in_flight": 10**6} if number else {}
        )
        made = new_key(random, created=datetime.now(UTC), team="bench", limits=limits)
        (folder / f"key-{number}").write_text(made.record.to_json())
        found[number] = made.text
    return found[0], found[1]


@contextlib.contextmanager
def stage(log: Path, **variables: str) -> Iterator[tuple[str, psutil.Process]]:
    """A stage in a process of its own, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PILOTLIGHT_", "K_"))}
    environment = {**own, "PORT": str(port), "PILOTLIGHT_HOST": "127.0.0.1", **variables}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "functions", "postprocess"], env=environment, stdout=out, stderr=out
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with (
                contextlib.suppress(OSError, urllib.error.URLError),
                urllib.request.urlopen(f"{url}/healthz/ready"),
            ):
                break
            time.sleep(0.1)
        else:
            raise SystemExit(f"the stage did not start: {log.read_text()[-500:]}")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def load(
    served: tuple[str, psutil.Process], key: str | None, folder: Path, *, connections: int, seconds: int
) -> tuple[float, float]:
    """Requests answered in a second, and the stage's processor time for each in microseconds."""
    url, process = served
    before = sum(process.cpu_times()[:2])
    found = wrk.post(url, folder, connections=connections, seconds=seconds, key=key)
    return found.per_second, (sum(process.cpu_times()[:2]) - before) / found.requests * 1e6


def measure(rounds: int, seconds: int, connections: int) -> dict[str, object]:
    """The figures."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = Path(name)
        keys = folder / "keys"
        keys.mkdir()
        plain, limited = make_keys(keys)
        opened = running.enter_context(stage(folder / "none.log", PILOTLIGHT_AUTH="none"))
        variables = {"PILOTLIGHT_AUTH": "keys", "PILOTLIGHT_KEYS_DIR": str(keys)}
        guarded = running.enter_context(stage(folder / "keys.log", **variables))
        arms = {"none": (opened, None), "key": (guarded, plain), "limits": (guarded, limited)}
        rates: dict[str, list[float]] = {arm: [] for arm in arms}
        processor: dict[str, list[float]] = {arm: [] for arm in arms}
        for served, key in arms.values():  # connections, caches, counters
            load(served, key, folder, connections=connections, seconds=1)
        for _ in range(rounds):
            for arm, (served, key) in arms.items():
                rate, cpu_us = load(served, key, folder, connections=connections, seconds=seconds)
                rates[arm].append(rate)
                processor[arm].append(cpu_us)
    return {
        "auth_vs_none": round(_ratio(rates["key"], rates["none"]), 3),
        "auth_with_limits_vs_none": round(_ratio(rates["limits"], rates["none"]), 3),
        "requests_per_second": {arm: round(statistics.median(found)) for arm, found in rates.items()},
        "processor_us_per_request": {
            arm: round(statistics.median(found)) for arm, found in processor.items()
        },
        "processor_none_vs_auth": round(_ratio(processor["none"], processor["key"]), 3),
        "keys": KEYS,
        "connections": connections,
        "rounds": rounds,
        "target": {"auth_vs_none": TARGET},
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="What checking a key costs a stage.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="of each arm, alternating")
    parser.add_argument("--seconds", type=at_least(1), default=3, help="of each round")
    parser.add_argument("--connections", type=at_least(1), default=32)
    given = parser.parse_args()
    wrk.require()
    found = measure(given.rounds, given.seconds, given.connections)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:26} {value}")


if __name__ == "__main__":
    main()
