# ruff: noqa: PLC0415 - each arm imports its own reader, and children only what they measure
"""Weights from S3 and from the cache to an engine's parameters, against what else there is.

    python benchmarks/weights.py [--size 2GB] [--repetitions 5] [--json]

The engine is played by parameters of the model's shapes that already lie in memory: every arm copies every
tensor into them, as an engine's `load_weights` does, except two: `raw_get`, which only reads into buffers
that it reuses, and `tensors`, which is set against it and only takes our tensors from the iteration. Copies
run on one thread: PyTorch's own pool spins while it waits, which would charge every reader for processors
that it does not use. The S3 endpoint is nginx on the loopback, serving the files with Range, from the page
cache. The arms take turns, in another order each time; a figure is the ratio of two medians of one run.
Memory is measured in processes of their own.

Before each turn of any arm, as much free memory as a turn may need is touched and given back. A virtual
machine's host often takes free memory away and gives it back page by page at the next touch, which makes new
memory up to eight times as dear as where it is owned, and at random; a cache is new memory, and so are
buffers. `--untouched` leaves that out. Memory that rests for some seconds, code and parameters included, may
also be slow at its next touch there. So the two arms that only move memory, which is over in a quarter of a
second, find their files in the page cache, each read once before, and take each turn twice: the second time
counts, and the first is reported beside it (`cached_vs_mmap_first`).

Needs nginx (Debian's nginx-light) and `pip install .[bench]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import queue
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BUCKET, PREFIX = "bench", "model"
ROOT = Path(__file__).resolve().parent.parent
GOALS = {
    "vs_runai_streamer": (">=", 2.0),
    "vs_boto3": (">=", 3.0),
    "vs_raw_get": (">=", 0.9),
    "write_through_cost": ("<=", 1.25),
    "cached_vs_mmap": (">=", 0.95),
    "peak_extra_mib": ("<=", 1100),
    "second_replica_private_mib": ("<=", 64),
}


def main() -> int:
    """Run everything and print one JSON object."""
    from benchmarks.arguments import at_least

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="2GB")
    parser.add_argument("--repetitions", type=at_least(1), default=5)
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument(
        "--folder", type=Path, help="work here and keep the model; default: a temporary folder"
    )
    parser.add_argument("--untouched", action="store_true", help="leave free memory as the host gives it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child]()))
        return 0
    from weights.sizes import parse_size

    try:
        size = parse_size(options.size)
    except ValueError as error:
        parser.error(str(error))
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(stack.enter_context(served(folder, size)))
        os.environ["BENCH_CACHE"] = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="cache-", dir=folder)
        )
        say = (lambda _: None) if options.json else (lambda text: print(text, file=sys.stderr, flush=True))
        result = measure(folder, options.repetitions, say, touched=not options.untouched)
    print(json.dumps(result, indent=None if options.json else 2))
    return 0


@contextlib.contextmanager
def served(folder: Path, size: int) -> Iterator[dict[str, str]]:
    """Make the model if need be, serve it as a bucket, and yield the environment that points at it."""
    from weights.make_model import make_model

    bucket = folder / "root" / BUCKET
    model = bucket / PREFIX
    if not model.exists():
        make_model(model, size=size)
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(nginx).exists():
        raise SystemExit("nginx not found; install Debian's nginx-light")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = folder / "nginx.conf"
    # Started by root, its workers would become a user that may not look into a temporary folder.
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(
        f"""{user} daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 2;
        events {{ worker_connections 512; }}
        http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
          default_type application/octet-stream;
          client_body_temp_path {folder}/tmp1; proxy_temp_path {folder}/tmp2; fastcgi_temp_path {folder}/tmp3;
          uwsgi_temp_path {folder}/tmp4; scgi_temp_path {folder}/tmp5;
          server {{ listen 127.0.0.1:{port}; root {folder}/root;
            location = /{BUCKET} {{ try_files /listing.xml =404; }}
            location = /{BUCKET}/ {{ try_files /listing.xml =404; }} }} }}"""
    )
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([nginx, "-c", str(configuration), "-e", str(folder / "nginx.log")])
    try:
        _wait(endpoint, f"/{BUCKET}/{PREFIX}/config.json")
        (folder / "root" / "listing.xml").write_text(_listing(endpoint, model))
        for path in sorted(model.glob("*.safetensors")):
            _read(path)  # into the page cache
        yield {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_ENDPOINT": endpoint, "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            "RUNAI_STREAMER_LOG_LEVEL": "ERROR", "BENCH_FOLDER": str(folder),
        }  # fmt: skip
    finally:
        server.terminate()
        server.wait()


def _listing(endpoint: str, model: Path) -> str:
    """What ListObjectsV2 would answer; the ETags are nginx's own."""
    items = []
    for path in sorted(model.iterdir()):
        request = urllib.request.Request(f"{endpoint}/{BUCKET}/{PREFIX}/{path.name}", method="HEAD")
        with urllib.request.urlopen(request) as answer:
            etag = answer.headers["ETag"].replace('"', "&quot;")
        items.append(
            f"<Contents><Key>{PREFIX}/{path.name}</Key><Size>{path.stat().st_size}</Size><ETag>{etag}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        )
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>{''.join(items)}</ListBucketResult>"
    )


def _wait(endpoint: str, path: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(endpoint + path, timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _read(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(16 << 20):
            pass


def in_memory(paths: list[Path]) -> None:
    """Read files that are to be found in the page cache: some kernels take away what rests for a minute."""
    for path in paths:
        _read(path)


def model_folder() -> Path:
    """The checkpoint on the disk."""
    return Path(os.environ["BENCH_FOLDER"]) / "root" / BUCKET / PREFIX


def cache_folder() -> Path:
    """The cache of this run: another run's knows the model by another address."""
    return Path(os.environ["BENCH_CACHE"])


def shards() -> list[Path]:
    """Its weights files."""
    return sorted(model_folder().glob("*.safetensors"))


def uri() -> str:
    """Its address."""
    return f"s3://{BUCKET}/{PREFIX}"


class Engine:
    """Parameters in memory, into which tensors are copied."""

    def __init__(self) -> None:
        import torch
        from safetensors import safe_open

        torch.set_num_threads(1)
        self.parameters: dict[str, Any] = {}
        for shard in shards():
            with safe_open(shard, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(name)
                    self.parameters[name] = torch.zeros(part.get_shape(), dtype=torch.bfloat16)
        self.bytes = sum(p.numel() * 2 for p in self.parameters.values())

    def load(self, tensors: Any) -> None:
        """Copy all of them; it is an error if any is missing."""
        count = 0
        for name, tensor in tensors:
            self.parameters[name].copy_(tensor)
            count += 1
        if count != len(self.parameters):
            raise RuntimeError(f"{count} of {len(self.parameters)} tensors arrived")


def touch_free_memory(size: int) -> None:
    """Make the host back `size` bytes of free memory, or as much as there is to spare."""
    import mmap

    available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert available
    size = min(size, int(available[1]) * 1024 // 2) // mmap.PAGESIZE * mmap.PAGESIZE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, size, mmap.PAGESIZE):
            area[offset] = 1


# The arms. Each returns the seconds until the last tensor was in the engine.


def streamed(
    engine: Engine | None, cache_dir: Path | None, model_path: str | Path | None = None
) -> tuple[float, float]:
    """Ours: seconds until the last tensor, and until the cache has everything.

    Without an engine tensors are only taken from the iteration and not copied.
    """
    from weights.loading.model import open_model
    from weights.loading.tensors import as_torch

    started = time.perf_counter()
    with open_model(model_path or uri(), cache_dir=cache_dir) as model:
        tensors = ((entry.name, as_torch(entry, data)) for entry, data in model)
        if engine is None:
            for _ in tensors:
                pass
        else:
            engine.load(tensors)
        loaded = time.perf_counter() - started
        model.finish()
        published = time.perf_counter() - started
    report = model.report()
    if report.cache_error:
        raise RuntimeError(report.cache_error)
    return loaded, published


def runai(engine: Engine, *, owned: bool) -> float:
    """Run:ai Model Streamer, by its own defaults."""
    from runai_model_streamer import SafetensorsStreamer

    started = time.perf_counter()
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{uri()}/{shard.name}" for shard in shards()], owned=owned)
        engine.load(streamer.get_tensors())
    return time.perf_counter() - started


def boto3_to_disk(engine: Engine, folder: Path) -> float:
    """boto3's TransferManager to disk, then safetensors."""
    import boto3
    from safetensors.torch import load_file

    started = time.perf_counter()
    client = boto3.client("s3")
    target = Path(tempfile.mkdtemp(dir=folder))
    try:
        for shard in shards():
            client.download_file(BUCKET, f"{PREFIX}/{shard.name}", str(target / shard.name))
        engine.load(item for shard in shards() for item in load_file(target / shard.name).items())
        return time.perf_counter() - started
    finally:
        shutil.rmtree(target)


def raw_get(buffers: queue.SimpleQueue[memoryview]) -> float:
    """Ranged reads by obstore, 16 MiB each, 16 at once, copied into buffers that are reused."""
    import obstore
    from obstore.store import S3Store

    part, at_once = 16 << 20, 16
    started = time.perf_counter()
    store = S3Store(
        BUCKET,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region="us-east-1",
        access_key_id="bench",
        secret_access_key="bench",
        client_options={"allow_http": True},
    )

    async def read_all() -> None:
        limit = asyncio.Semaphore(at_once)

        async def read_one(key: str, start: int, length: int) -> None:
            async with limit:
                data = await obstore.get_range_async(store, key, start=start, length=length)
                buffer = buffers.get_nowait()
                buffer[:length] = memoryview(data)
                buffers.put(buffer)

        await asyncio.gather(
            *(
                read_one(f"{PREFIX}/{shard.name}", start, min(part, shard.stat().st_size - start))
                for shard in shards()
                for start in range(0, shard.stat().st_size, part)
            )
        )

    asyncio.run(read_all())
    return time.perf_counter() - started


def touched_buffers() -> queue.SimpleQueue[memoryview]:
    """What `raw_get` reads into."""
    import mmap

    buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    for _ in range(16):
        area = mmap.mmap(-1, 16 << 20)
        area.write(b"\1" * len(area))
        buffers.put(memoryview(area))
    return buffers


def mapped_by_safetensors(engine: Engine) -> float:
    """The reader of safetensors itself over the files in the page cache."""
    from safetensors import safe_open

    started = time.perf_counter()
    for shard in shards():
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                engine.parameters[name].copy_(file.get_tensor(name))
    return time.perf_counter() - started


def measure(folder: Path, repetitions: int, say: Callable[[str], None], *, touched: bool) -> dict[str, Any]:
    """All arms in turn, then the memory; ratios of medians."""
    import weights

    engine = Engine()
    buffers = touched_buffers()
    warm = cache_folder()
    streamed(engine, warm)
    # As a replica has it before its engine starts: the model's folder, which knows the cached weights.
    pulled = weights.pull_blocking(uri(), cache_dir=warm, with_weights=False)
    seconds: dict[str, list[float]] = {}

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
        lambda: note("tensors", streamed(None, None)[0]),
        lambda: note("raw_get", raw_get(buffers)),
        write_through,
        lambda: note("runai_owned", runai(engine, owned=True)),
        lambda: note("runai_borrowed", runai(engine, owned=False)),
        lambda: note("boto3", boto3_to_disk(engine, folder)),
        cached,
        mapped,
    ]
    order = random.Random(0)  # no arm always follows the one that leaves the most to clean up
    for round_number in range(repetitions + 1):
        if round_number == 1:
            seconds.clear()  # the first round warms up
        for arm in order.sample(arms, len(arms)):
            if touched:
                touch_free_memory(2 * engine.bytes)
            arm()
    median = {arm: statistics.median(values) for arm, values in seconds.items()}
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
    return {
        "benchmark": "weights",
        **{key: round(value, 3) for key, value in figures.items()},
        "met": {
            key: figures[key] >= goal if sign == ">=" else figures[key] <= goal
            for key, (sign, goal) in GOALS.items()
        },
        "vs_raw_get_with_engine": round(median["raw_get"] / median["stream"], 3),
        "cached_vs_mmap_first": round(median["mmap_first"] / median["cached_first"], 3),
        "published_cost": round(median["stream_and_publish"] / median["stream"], 3),
        "second_replica_pss_mib": round(second["pss_mib"], 1),
        "second_replica_rss_mib": round(second["rss_mib"], 1),
        "seconds": {arm: round(value, 4) for arm, value in median.items()},
        "spread": {arm: [round(min(values), 4), round(max(values), 4)] for arm, values in seconds.items()},
        "gb_per_second": {arm: round(engine.bytes / value / 1e9, 3) for arm, value in median.items()},
        "bytes": engine.bytes,
        "repetitions": repetitions,
        "cpus": os.cpu_count(),
        "free_memory_touched": touched,
    }


# Memory, each in a process of its own.


def child(name: str) -> dict[str, float]:
    """Run one of CHILDREN and return what it printed."""
    command = [sys.executable, __file__, "--child", name]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return result


@contextlib.contextmanager
def child_running(name: str) -> Iterator[None]:
    """A child that says when it is ready and lives for as long as the block."""
    command = [sys.executable, __file__, "--child", name]
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
    """Peak resident memory of a load from S3 through the cache, above what was there before.

    That is the parameters and the libraries. Writing to the cache keeps buffers longer than anything else.
    """
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
    """A replica that holds the cached model's tensors as they come, and has read every byte of them."""
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
    """How much of the weights' mapping is this process' own."""
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
    sys.exit(main())
