# ruff: noqa: PLC0415 - a child imports only what it measures
"""What loads cost in memory, each measured in a process of its own.

python benchmarks/weights_memory.py peak | second_holder | second
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """The cache of this run; another run's has the model under another address."""
    return Path(os.environ["BENCH_CACHE"])


def child(name: str) -> dict[str, float]:
    """Run one of CHILDREN in a process of its own; what it printed."""
    command = [sys.executable, __file__, name]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return result


@contextlib.contextmanager
def child_running(name: str) -> Iterator[None]:
    """Run one of CHILDREN that prints `ready`, for as long as the block lasts."""
    command = [sys.executable, __file__, name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdin
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{name} did not start")
        yield
    finally:
        process.stdin.close()
        process.wait(30)


def _peak() -> dict[str, float]:
    """Peak resident memory of a load from S3 through the cache, above that of parameters and libraries.

    Writing to the cache keeps buffers longer than anything else does.
    """
    from benchmarks.weights_arms import Engine, streamed

    engine = Engine()
    status = Path("/proc/self/status")
    import boto3  # noqa: F401 - the libraries are not the weights' memory

    import weights.loading.model
    import weights.loading.tensors  # noqa: F401

    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    before = _status(status, "VmRSS")
    fresh = Path(tempfile.mkdtemp(dir=os.environ["BENCH_FOLDER"]))
    try:
        streamed(engine, fresh)
    finally:
        shutil.rmtree(fresh)
    return {"extra_mib": (_status(status, "VmHWM") - before) / 1024, "before_mib": before / 1024}


def _status(path: Path, field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    assert match
    return int(match[1])


def _hold() -> list[Any]:
    """The tensors of the cached model as a replica holds them, every page touched."""
    from benchmarks.weights_s3 import uri
    from weights.loading.model import open_model
    from weights.loading.tensors import as_torch

    model = open_model(uri(), cache_dir=cache_folder())
    held = [as_torch(entry, data) for entry, data in model]
    for tensor in held:
        tensor.view(-1).float().sum() if tensor.numel() < 1 << 16 else tensor.view(-1)[::512].sum()
    return [model, held]


def _second_holder() -> dict[str, float]:
    held = _hold()
    print("ready", flush=True)
    sys.stdin.read()
    return {"tensors": float(len(held[1]))}


def _second() -> dict[str, float]:
    """How much of the mapping of the weights this process does not share."""
    held = _hold()
    totals = {"Private_Clean": 0, "Private_Dirty": 0, "Pss": 0, "Rss": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = "/blobs/" in line
        elif inside:
            name, _, rest = line.partition(":")
            if name in totals:
                totals[name] += int(rest.split()[0])
    del held
    private = totals["Private_Clean"] + totals["Private_Dirty"]
    return {"private_mib": private / 1024, "pss_mib": totals["Pss"] / 1024, "rss_mib": totals["Rss"] / 1024}


CHILDREN: dict[str, Callable[[], dict[str, float]]] = {
    "peak": _peak, "second_holder": _second_holder, "second": _second,
}  # fmt: skip

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(json.dumps(CHILDREN[sys.argv[1]]()))
