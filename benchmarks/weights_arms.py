# ruff: noqa: PLC0415 - each arm imports its own reader
"""The arms of `benchmarks/weights.py`: each returns the seconds until the last tensor was in the engine."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.weights_s3 import BUCKET, PREFIX, shards, uri


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
        """Copy all tensors. Raises RuntimeError: some are missing."""
        count = 0
        for name, tensor in tensors:
            self.parameters[name].copy_(tensor)
            count += 1
        if count != len(self.parameters):
            raise RuntimeError(f"{count} of {len(self.parameters)} tensors arrived")


def streamed(
    engine: Engine | None, cache_dir: Path | None, model_path: str | Path | None = None
) -> tuple[float, float]:
    """Pilotlight: seconds until the last tensor, and until the cache has everything.

    Without an engine, tensors are taken from the iteration and not copied.
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
    """Run:ai Model Streamer with its own defaults."""
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
        # It cannot be given a certificate of our own; leaving the check out costs it nothing.
        client_options={"allow_http": True, "allow_invalid_certificates": True},
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
    """The buffers of `raw_get`."""
    import mmap

    buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    for _ in range(16):
        area = mmap.mmap(-1, 16 << 20)
        area.write(b"\1" * len(area))
        buffers.put(memoryview(area))
    return buffers


def mapped_by_safetensors(engine: Engine) -> float:
    """The safetensors library over the files in the page cache."""
    from safetensors import safe_open

    started = time.perf_counter()
    for shard in shards():
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                engine.parameters[name].copy_(file.get_tensor(name))
    return time.perf_counter() - started
