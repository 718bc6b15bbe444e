"""What mutual TLS between gateway and stage costs: requests a second with it over requests a second without.

The same stage (postprocess) on two local platforms, `pilotlight up --mtls` and without; requests go to its
function URL. The first part is the client's plain HTTP in both. Load comes from wrk, a Debian package.

    python benchmarks/mtls.py            a table
    python benchmarks/mtls.py --json     one JSON object

Everything runs on this machine's loopback; the ratio is the median over alternating rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import wrk  # noqa: E402 - see above
from benchmarks.arguments import at_least  # noqa: E402

TARGET = 0.7
AGENT = {
    "apiVersion": "pilotlight.dev/v1alpha1",
    "kind": "Agent",
    "metadata": {"name": "bench"},
    "spec": {"stages": [{"name": "clean", "kind": "postprocess", "scaling": {"min": 1, "max": 1}}]},
}


@contextlib.contextmanager
def platform(folder: Path, *more: str) -> Iterator[str]:
    """`pilotlight up` in a process of its own, and the stage's function URL."""
    folder.mkdir()
    agent, log = folder / "agent.yaml", folder / "up.log"
    agent.write_text(yaml.safe_dump(AGENT))
    program = str(Path(sys.executable).with_name("pilotlight"))
    command = [
        program,
        "up",
        "-f",
        str(agent),
        "--port=0",
        "--api-port=0",
        f"--state={folder / 'state'}",
        *more,
    ]
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PILOTLIGHT_", "K_"))}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=own, stdout=out, stderr=out)
    try:
        for _ in range(600):
            if found := re.search(r"http://[^\s]*/default/clean-bench/?\S*", log.read_text()):
                break
            if process.poll() is not None:
                raise SystemExit(f"the platform ended: {log.read_text()[-800:]}")
            time.sleep(0.1)
        else:
            raise SystemExit(f"the platform did not start: {log.read_text()[-800:]}")
        yield found[0].rstrip("/").removesuffix("/invoke")
    finally:
        process.terminate()
        process.wait(30)


def measure(rounds: int, seconds: int, connections: int) -> dict[str, object]:
    """The figures."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = Path(name)
        urls = {
            "plain": running.enter_context(platform(folder / "plain")),
            "mtls": running.enter_context(platform(folder / "mtls", "--mtls")),
        }
        rates: dict[str, list[float]] = {arm: [] for arm in urls}
        for url in urls.values():
            wrk.post(url, folder, connections=connections, seconds=1)
        for _ in range(rounds):
            for arm, url in urls.items():
                found = wrk.post(url, folder, connections=connections, seconds=seconds)
                rates[arm].append(found.per_second)
    ratio = statistics.median(a / b for a, b in zip(rates["mtls"], rates["plain"], strict=True))
    return {
        "mtls_vs_plain": round(ratio, 3),
        "requests_per_second": {arm: round(statistics.median(found)) for arm, found in rates.items()},
        "connections": connections,
        "rounds": rounds,
        "load_average": round(psutil.getloadavg()[0], 1),
        "target": {"mtls_vs_plain": TARGET},
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="What mutual TLS between gateway and stage costs.")
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
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
