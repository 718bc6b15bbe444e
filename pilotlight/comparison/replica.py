"""A generate replica of one checkpoint, as a process of this machine: started, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import psutil

from knative import env_vars
from knative.local.kubelet.process import dies_with_parent
from pilotlight.comparison.errors import CompareError
from pilotlight.comparison.values import Start
from weights.cache.location import CACHE_DIR_VARIABLE

NAME = "model"
"""That every checkpoint is served under."""
_POLL_S = 0.05
_GRACE_S = 10.0
_LOG_LINES = 3


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica that is ready."""

    url: str
    pid: int
    start: Start
    log: Path

    def processes(self) -> list[psutil.Process]:
        """Its processes: the replica's own, vLLM's server and its engine."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        return []

    def processor_s(self) -> float:
        """Processor time that its processes have taken, in seconds."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def resident_bytes(self) -> int:
        """Memory that would become free if it ended (unique set size, all its processes)."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().uss
        return total


@contextlib.asynccontextmanager
async def replica(
    model: Path, args: Mapping[str, Any], folder: Path, *, patience_s: float
) -> AsyncIterator[Replica]:
    """Start `python -m functions generate` with an empty cache, and wait until it answers.

    Args:
        model: the checkpoint's folder.
        args: the engine's options.
        folder: for its cache and log; exists.
        patience_s: how long the start may take.

    Raises:
        CompareError: it does not start; the message has the cause.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / "replica.log"
    cache = folder / "cache"
    began = monotonic()
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *dies_with_parent(),
            sys.executable,
            *("-m", "functions", "generate"),
            env=_environment(model, args, cache, port),
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
    try:
        url = f"http://127.0.0.1:{port}"
        phases = await _wait_until_hot(process, url, log, model, patience_s)
        yield Replica(url, process.pid, Start(monotonic() - began, phases), log)
    finally:
        await _end(process)
        shutil.rmtree(cache, ignore_errors=True)


def _environment(model: Path, args: Mapping[str, Any], cache: Path, port: int) -> dict[str, str]:
    ours = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith((env_vars.PREFIX, "K_", "OTEL_", "KUBERNETES_"))
    }
    return {
        **ours,
        "PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        env_vars.HOST: "127.0.0.1",
        env_vars.MODEL_URI: str(model),
        env_vars.MODEL_NAME: NAME,
        env_vars.ENGINE_ARGS: json.dumps(dict(args)),
        CACHE_DIR_VARIABLE: str(cache),
        env_vars.DEADLINE_SECONDS: "3600",
        env_vars.FAILURE_SECONDS: "30",
        env_vars.TERMINATION_LOG: os.devnull,
    }


async def _wait_until_hot(
    process: asyncio.subprocess.Process, url: str, log: Path, model: Path, patience_s: float
) -> dict[str, float]:
    deadline = monotonic() + patience_s
    async with aiohttp.ClientSession() as session:
        while monotonic() < deadline:
            if process.returncode is not None:
                raise CompareError(
                    f"{model}: the replica ended with {process.returncode}: {_last_lines(log)}"
                )
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                timeout = aiohttp.ClientTimeout(total=10)
                async with session.get(f"{url}/healthz/ready", timeout=timeout) as response:
                    view = await response.json(content_type=None)
                if view.get("state") == "hot":
                    return {str(name): float(value) for name, value in view["phases"].items()}
                if view.get("state") == "failed":
                    cause = view.get("cause") or view.get("detail") or _last_lines(log)
                    raise CompareError(f"{model}: the replica does not start: {cause}")
            await asyncio.sleep(_POLL_S)
    raise CompareError(f"{model}: the replica is not ready after {patience_s:g} s: {_last_lines(log)}")


def _last_lines(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace")[-4000:].splitlines() if line.strip()]
        return " | ".join(lines[-_LOG_LINES:])
    return "no log"


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it and what it has started, by their ids; also where this task has been cancelled."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    waiting = asyncio.ensure_future(process.wait())
    await asyncio.wait({waiting}, timeout=_GRACE_S)
    if not waiting.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await waiting
    # What it leaves behind has lost its parent and is being ended by the kernel; nothing may stay.
    for left in psutil.wait_procs(family, timeout=1)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
