"""Weights from S3 and from the cache into an engine's parameters, compared with other readers.

    python benchmarks/weights.py [--size 2GB] [--repetitions 5] [--json] [--plain]

The endpoint speaks TLS, as S3 does; with `--plain` it does not.

The engine is simulated by parameters of the model's shapes that are in memory already. Every arm copies every
tensor into them, as an engine's `load_weights` does, except two: `raw_get`, which only reads into buffers
that it reuses, and `tensors`, its counterpart, which only takes the tensors from the iteration. Copies run on
one thread: PyTorch's own thread pool spins while it waits, which would charge every reader for processors
that it does not use. The S3 endpoint is nginx on the loopback, which serves the files with Range from the
page cache. The arms take turns in random order; a figure is the ratio of two medians of one run. Memory is
measured in processes of their own.

Before each turn, as much free memory as a turn may need is touched and given back. The host of a virtual
machine often reclaims free memory and returns it page by page at the next touch, which makes new memory up to
eight times as slow, at random; a cache is new memory, and so are buffers. `--untouched` leaves that out. Idle
memory, code and parameters included, may be slow at its next touch as well. The two arms that only move
memory, which takes a quarter of a second, therefore find their files in the page cache, each read once
before, and take each turn twice: the second one counts, and the first is reported beside it
(`cached_vs_mmap_first`).

Needs nginx (Debian's nginx-light) and `pip install .[bench]`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import at_least
from benchmarks.weights_arms import (
    Engine,
    boto3_to_disk,
    mapped_by_safetensors,
    raw_get,
    runai,
    streamed,
    touched_buffers,
)
from benchmarks.weights_memory import cache_folder, child, child_running
from benchmarks.weights_s3 import read, served, shards, uri
from weights.sizes import parse_size

GOALS = {
    "vs_runai_streamer": (">=", 2.0),
    "vs_boto3": (">=", 3.0),
    "vs_raw_get": (">=", 0.9),
    "weights_tls_vs_obstore": (">=", 1.0),
    "weights_tls_vs_runai": (">=", 1.5),
    "tls_cpu_vs_obstore": ("<=", 1.15),
    "write_through_cost": ("<=", 1.25),
    "cached_vs_mmap": (">=", 0.95),
    "peak_extra_mib": ("<=", 1100),
    "second_replica_private_mib": ("<=", 64),
}


def main() -> int:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="2GB")
    parser.add_argument("--repetitions", type=at_least(1), default=5)
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--plain", action="store_true", help="plain HTTP in place of TLS")
    parser.add_argument(
        "--folder", type=Path, help="work here and keep the model; default: a temporary folder"
    )
    parser.add_argument("--untouched", action="store_true", help="leave free memory as the host gives it")
    options = parser.parse_args()
    try:
        size = parse_size(options.size)
    except ValueError as error:
        parser.error(str(error))
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(stack.enter_context(served(folder, size, tls=not options.plain)))
        os.environ["BENCH_CACHE"] = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="cache-", dir=folder)
        )
        say = (lambda _: None) if options.json else (lambda text: print(text, file=sys.stderr, flush=True))
        result = measure(
            folder, options.repetitions, say, touched=not options.untouched, tls=not options.plain
        )
    print(json.dumps(result, indent=None if options.json else 2))
    return 0


def in_memory(paths: list[Path]) -> None:
    """Read files into the page cache: some kernels drop what was not used for a minute."""
    for path in paths:
        read(path)


def touch_free_memory(size: int) -> None:
    """Make the host back `size` bytes of free memory, or half of what is available if that is less."""
    import mmap  # noqa: PLC0415 - used here alone

    available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert available
    size = min(size, int(available[1]) * 1024 // 2) // mmap.PAGESIZE * mmap.PAGESIZE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, size, mmap.PAGESIZE):
            area[offset] = 1


def measure(  # noqa: C901 - one list of arms
    folder: Path, repetitions: int, say: Callable[[str], None], *, touched: bool, tls: bool
) -> dict[str, Any]:
    """Run all arms in turn, then measure memory; ratios of medians."""
    import weights  # noqa: PLC0415 - its import is not measured

    engine = Engine()
    buffers = touched_buffers()
    warm = cache_folder()
    streamed(engine, warm)
    # As a replica has it before its engine starts: the model's folder, which knows the cached weights.
    pulled = weights.pull_blocking(uri(), cache_dir=warm, with_weights=False)
    seconds: dict[str, list[float]] = {}
    processor_seconds: dict[str, list[float]] = {}

    def timed(arm: str, run: Callable[[], float]) -> None:
        began = time.process_time()
        note(arm, run())
        processor_seconds.setdefault(arm, []).append(time.process_time() - began)

    def note(arm: str, value: float) -> None:
        seconds.setdefault(arm, []).append(value)
        say(f"{arm:22} {value:7.3f} s  {engine.bytes / value / 1e9:6.2f} GB/s")

    blobs = sorted((warm / "blobs").glob("[0-9a-f]" * 64))

    def write_through() -> None:
        fresh = Path(tempfile.mkdtemp(dir=folder))
        try:
            loaded, published = streamed(engine, fresh)
        finally:
            shutil.rmtree(fresh)
        note("stream_and_cache", loaded)
        note("stream_and_publish", published)

    def cached() -> None:
        in_memory(blobs)
        note("cached_first", streamed(engine, warm, pulled.path)[0])
        note("cached", streamed(engine, warm, pulled.path)[0])

    def mapped() -> None:
        in_memory(shards())
        note("mmap_first", mapped_by_safetensors(engine))
        note("mmap", mapped_by_safetensors(engine))

    arms: list[Callable[[], None]] = [
        lambda: note("stream", streamed(engine, None)[0]),
        lambda: timed("tensors", lambda: streamed(None, None)[0]),
        lambda: timed("raw_get", lambda: raw_get(buffers)),
        write_through,
        lambda: note("runai_owned", runai(engine, owned=True)),
        lambda: note("runai_borrowed", runai(engine, owned=False)),
        lambda: note("boto3", boto3_to_disk(engine, folder)),
        cached,
        mapped,
    ]
    order = random.Random(0)  # so that no arm always follows the same one
    for round_number in range(repetitions + 1):
        if round_number == 1:
            seconds.clear()  # the first round warms up
            processor_seconds.clear()
        for arm in order.sample(arms, len(arms)):
            if touched:
                touch_free_memory(2 * engine.bytes)
            arm()
    median = {arm: statistics.median(values) for arm, values in seconds.items()}
    processor = {arm: statistics.median(values) for arm, values in processor_seconds.items()}
    memory = child("peak")
    with child_running("second_holder"):
        second = child("second")
    figures = {
        "vs_runai_streamer": min(median["runai_owned"], median["runai_borrowed"]) / median["stream"],
        "vs_boto3": median["boto3"] / median["stream"],
        "vs_raw_get": median["raw_get"] / median["tensors"],
        "write_through_cost": median["stream_and_cache"] / median["stream"],
        "cached_vs_mmap": median["mmap"] / median["cached"],
        "peak_extra_mib": memory["extra_mib"],
        "second_replica_private_mib": second["private_mib"],
    }
    if tls:
        figures |= {
            "weights_tls_vs_obstore": figures["vs_raw_get"],
            "weights_tls_vs_runai": figures["vs_runai_streamer"],
            "tls_cpu_vs_obstore": processor["tensors"] / processor["raw_get"],
        }
    return {
        "benchmark": "weights",
        "tls": tls,
        **{key: round(value, 3) for key, value in figures.items()},
        "met": {
            key: figures[key] >= goal if sign == ">=" else figures[key] <= goal
            for key, (sign, goal) in GOALS.items()
            if key in figures
        },
        "vs_raw_get_with_engine": round(median["raw_get"] / median["stream"], 3),
        "cached_vs_mmap_first": round(median["mmap_first"] / median["cached_first"], 3),
        "published_cost": round(median["stream_and_publish"] / median["stream"], 3),
        "second_replica_pss_mib": round(second["pss_mib"], 1),
        "second_replica_rss_mib": round(second["rss_mib"], 1),
        "seconds": {arm: round(value, 4) for arm, value in median.items()},
        "processor_seconds_per_gb": {
            arm: round(value / engine.bytes * 1e9, 3) for arm, value in processor.items()
        },
        "spread": {arm: [round(min(values), 4), round(max(values), 4)] for arm, values in seconds.items()},
        "gb_per_second": {arm: round(engine.bytes / value / 1e9, 3) for arm, value in median.items()},
        "bytes": engine.bytes,
        "repetitions": repetitions,
        "cpus": os.cpu_count(),
        "free_memory_touched": touched,
    }


if __name__ == "__main__":
    sys.exit(main())
