"""Seconds to the first token: a fresh vLLM server compared with each warmth level of a replica.

    python benchmarks/cold_start.py [--json] [--runs N] [--plain-runs N] [--chain-runs N] [--only-chain]

| figure | from | to |
|---|---|---|
| `vllm_server_s` | start of `python -m vllm.entrypoints.openai.api_server` | first token of a stream |
| `cold_s` | start of `python -m functions generate`, weights in S3, only a snapshot in the cache | the same |
| `cold_without_snapshot_s` | the same with an empty cache | the same |
| `standby_s` | a request sent to a replica in standby | the same |
| `restart_s` | SIGKILL of the engine core of a hot replica | the same, the client trying again |
| `chain_cold_forked_s` | a request to a chain of four stages at zero (`cold_chain.py`) | the same |
| `chain_cold_import_s` | the same, where every stage and the template import | the same |

Snapshots need CRIU 4.1 or later and its rights (`--criu PROGRAM`, or `criu` in PATH); else `cold_s` is null.
All with the same model and options, on one machine, one after the other. Figures are medians, for each phase
as well, and ratios of medians.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from benchmarks.cold_chain import measure_chain  # noqa: E402
from benchmarks.vllm_servers import Server, call, plain_vllm, replica, wait_for_state  # noqa: E402
from tests.weights.s3 import s3_server  # noqa: E402
from weights.make_model import make_model  # noqa: E402


def core_pid(server: Server) -> int:
    """The process of the replica's engine core: the grandchild of its template."""
    for process in server.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_core(process):
                return process.pid
    raise RuntimeError("the replica has no engine core")


def is_core(process: psutil.Process) -> bool:
    """Whether it is a running engine core, by the process title that vLLM sets."""
    return "EngineCor" in process.name() and process.status() != psutil.STATUS_ZOMBIE


def lower_to_standby(server: Server) -> None:
    """Set the replica's resting warmth, and wait until its engine's last process, the server, is gone."""
    status, answer = call(server, "/admin/warmth", {"warmth": "standby", "wait": True})
    if status != 200:
        raise RuntimeError(f"the replica was not lowered: {answer}")
    deadline = time.monotonic() + 30
    while len(server.tree()) > len(("the replica", "its template")):
        if time.monotonic() > deadline:
            raise TimeoutError("the engine does not end")
        time.sleep(0.02)


def from_standby(server: Server) -> tuple[float, dict[str, float]]:
    """Seconds from a request to its first token, and the phases that it paid for."""
    lower_to_standby(server)
    began = time.monotonic()
    seconds = server.first_token() - began
    return seconds, call(server, "/healthz/ready")[1]["phases"]


def from_crash(server: Server) -> tuple[float, dict[str, float]]:
    """Seconds from SIGKILL of the engine core to the next first token, and the phases of the recovery."""
    os.kill(core_pid(server), signal.SIGKILL)
    began = time.monotonic()
    seconds = server.first_token() - began
    return seconds, call(server, "/healthz/ready")[1]["phases"]


def median_phases(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each phase over the runs that have it."""
    names = dict.fromkeys(name for phases in runs for name in phases)
    return {name: statistics.median(one[name] for one in runs if name in one) for name in names}


def write_snapshot(uri: str, folder: Path, variables: dict[str, str]) -> dict[str, float | None]:
    """Have a replica write a snapshot into `folder/cache`; its size and the seconds that writing took."""
    folder.mkdir()
    with replica(uri, folder, **variables, PILOTLIGHT_SNAPSHOT="true") as server:
        wait_for_state(server, "hot")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
            seconds = [
                line["write_seconds"] for line in lines if line["message"] == "template process written"
            ]
            sizes = [line["mib"] for line in lines if line["message"] == "snapshot written"]
            if sizes:
                return {"snapshot_mib": sizes[0], "snapshot_write_s": seconds[0]}
            if any(line["message"] == "no snapshot is written" for line in lines):
                break
            time.sleep(0.2)
    return {"snapshot_mib": None, "snapshot_write_s": None}


def measure(folder: Path, runs: int, plain_runs: int, variables: dict[str, str]) -> dict[str, Any]:
    """All figures."""
    model = make_model(folder / "model").path
    plain, cold, imported, standby, restart = [], [], [], [], []
    phases: dict[str, list[dict[str, float]]] = {
        "cold": [],
        "cold_without_snapshot": [],
        "standby": [],
        "restart": [],
    }
    memory: dict[str, float] = {}
    for _ in range(plain_runs):
        with plain_vllm(model, folder) as server:
            plain.append(server.first_token() - server.began)
    with s3_server(folder / "s3.log") as s3:
        uri = s3.upload(model, "models", "bench")
        variables = {**s3.environment, **variables}
        snapshot = write_snapshot(uri, folder / "snapshot", variables)
        for number in range(plain_runs):
            if snapshot["snapshot_mib"] is not None:
                scratch = folder / f"restored-{number}"
                shutil.copytree(
                    folder / "snapshot/cache/snapshots", scratch / "cache/snapshots", copy_function=os.link
                )
                with replica(uri, scratch, **variables) as server:
                    wait_for_port(server)
                    cold.append(server.first_token() - server.began)
                    phases["cold"].append(call(server, "/healthz/ready")[1]["phases"])
            scratch = folder / f"cold-{number}"
            scratch.mkdir()
            with replica(uri, scratch, **variables) as server:
                wait_for_port(server)
                imported.append(server.first_token() - server.began)
                phases["cold_without_snapshot"].append(call(server, "/healthz/ready")[1]["phases"])
                if number < plain_runs - 1:
                    continue
                for _ in range(runs):
                    seconds, paid = from_standby(server)
                    standby.append(seconds)
                    phases["standby"].append(paid)
                    seconds, paid = from_crash(server)
                    restart.append(seconds)
                    phases["restart"].append(paid)
                memory["hot_rss_mib"], memory["hot_private_mib"] = server.rss_mib(), server.private_mib()
                lower_to_standby(server)
                memory["standby_rss_mib"] = server.rss_mib()
                memory["standby_private_mib"] = server.private_mib()
    medians = {
        name: statistics.median(values) if values else None
        for name, values in {
            "vllm_server_s": plain,
            "cold_s": cold,
            "cold_without_snapshot_s": imported,
            "standby_s": standby,
            "restart_s": restart,
        }.items()
    }
    base = medians["vllm_server_s"]
    assert base is not None
    ratios = {
        f"{name.removesuffix('_s')}_vs_vllm_server": None if value is None else base / value
        for name, value in medians.items()
        if value != base
    }
    return {
        **ratios,
        **snapshot,
        **memory,
        **medians,
        "runs": {
            "vllm_server": plain,
            "cold": cold,
            "cold_without_snapshot": imported,
            "standby": standby,
            "restart": restart,
        },
        "phases_s": {start: median_phases(runs) for start, runs in phases.items()},
    }


def wait_for_port(server: Server) -> None:
    """Wait until the replica's own port answers, as a platform would."""
    wait_for_state(server, "starting", "loading", "standby", "hot")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--runs", type=at_least(1), default=5, help="starts from standby, and recoveries (default 5)"
    )
    parser.add_argument(
        "--plain-runs", type=at_least(1), default=3, help="fresh starts of each server (default 3)"
    )
    parser.add_argument(
        "--chain-runs",
        type=at_least(0),
        default=3,
        help="cold starts of the whole chain in each of its arms (default 3; 0: none)",
    )
    parser.add_argument("--only-chain", action="store_true", help="nothing but the chain")
    parser.add_argument("--criu", type=Path, help="CRIU's program (default: criu in PATH)")
    options = parser.parse_args()
    variables = {} if options.criu is None else {"PILOTLIGHT_CRIU": str(options.criu.absolute())}
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as scratch:
        figures = {}
        if not options.only_chain:
            figures |= measure(Path(scratch), options.runs, options.plain_runs, variables)
        if options.chain_runs:
            figures |= asyncio.run(measure_chain(Path(scratch), options.chain_runs, variables))
    if options.json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:28} {value:.2f}" if isinstance(value, float) else f"{key:28} {json.dumps(value)}")


if __name__ == "__main__":
    main()
