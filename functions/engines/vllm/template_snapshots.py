"""Restoring the template process of one replica from a snapshot, and having one written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from functions.engines.vllm.option_schema import installed_release
from functions.engines.vllm.snapshots import criu
from functions.engines.vllm.snapshots.criu import Criu, CriuError
from functions.engines.vllm.snapshots.identity import SnapshotIdentity, first_changed_file, identity_here
from functions.engines.vllm.snapshots.parking import Order
from functions.engines.vllm.template_process import TemplateProcess, template_environment
from functions.settings import FunctionSettings, process_environment
from weights import CacheError
from weights.cache.artefact_folders import ArtefactFolders, OpenedFolder
from weights.cache.artefact_trust import ArtefactTrust
from weights.cache.cache import Cache

log = logging.getLogger(__name__)

KIND = "snapshots"
_RESTORE_SECONDS = 10.0
"""Time after which a restore that has not connected is given up; one that fails ends at once."""
_GRACE_SECONDS = 10.0


class TemplateSnapshots:
    """The snapshots of one replica's template process, in the node's cache.

    Args:
        settings: model, cache folder, and whether a snapshot is written.
        signing_key: of the deployment; None to use only what this user wrote on this node.
    """

    def __init__(self, settings: FunctionSettings, signing_key: str | None) -> None:
        self._cache_dir = settings.cache_dir
        self._model_uri = settings.model_uri or ""
        self._wanted = settings.snapshot
        self._trust = ArtefactTrust(None if signing_key is None else signing_key.encode())
        self._writing: asyncio.Task[None] | None = None
        self._restored = False

    async def restore(self) -> TemplateProcess | None:
        """A template process from the snapshot that fits; None without one, or where it fails (logged)."""
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            try:
                found = await asyncio.to_thread(self._open, stack)
                if found is None:
                    return None
                process = await _restored(*found)
            except (OSError, ValueError, KeyError, TypeError, CacheError, CriuError) as error:
                seconds = round(time.monotonic() - began, 3)
                log.warning("snapshot not restored", extra={"cause": str(error), "seconds": seconds})
                return None
        self._restored = True
        log.info("snapshot restored", extra={"seconds": round(time.monotonic() - began, 3)})
        return process

    def save(self, model: Path) -> None:
        """Have a snapshot written by a process of its own that runs only where nothing else wants to.

        Args:
            model: folder with the model's configuration.
        """
        if self._wanted and not self._restored and self._writing is None:
            self._writing = asyncio.create_task(self._write(model))

    async def close(self) -> None:
        """End a writing under way; what it has written so far is removed."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait({self._writing})

    def _open(self, stack: contextlib.ExitStack) -> tuple[Criu, OpenedFolder] | None:
        """CRIU and the snapshot that fits; None without a snapshot."""
        if not (self._cache_dir / KIND).is_dir():
            return None
        name = identity_of_template(self._model_uri).name
        cache = Cache(self._cache_dir, allow_read_only=True)
        stack.callback(cache.close)
        folders = ArtefactFolders(cache, KIND, self._trust)
        if (made_of := folders.record(name)) is None:
            return None
        program = criu.find_criu(process_environment())
        if (changed := first_changed_file(made_of["files"])) is not None:
            raise ValueError(f"{changed} is not the file that it was when the snapshot was written")
        return program, stack.enter_context(folders.opened(name))

    async def _write(self, model: Path) -> None:
        command = [
            *(sys.executable, "-m", "functions.engines.vllm.write_snapshot"),
            *("--cache", str(self._cache_dir), "--model-uri", self._model_uri, "--model", str(model)),
        ]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
                if process.returncode is None:
                    process.kill()


def identity_of_template(model_uri: str) -> SnapshotIdentity:
    """The identity of the template process that this process would start for a model."""
    return identity_here(
        engine=installed_release() or "", model=model_uri, environment=template_environment()
    )


async def _restored(program: Criu, snapshot: OpenedFolder) -> TemplateProcess:
    """A template process from a snapshot. It gets its order only once every byte of the snapshot is verified.

    Raises:
        CriuError: it could not be restored.
        UntrustedArtefactsError: the snapshot is damaged.
    """
    loop = asyncio.get_running_loop()
    work_dir = Path(tempfile.mkdtemp(prefix="pilotlight-"))
    process: asyncio.subprocess.Process | None = None
    try:
        path = work_dir / "template.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(path))
            listening.listen(1)
            listening.setblocking(False)
            reading, writing = os.pipe()
            try:
                process = await asyncio.create_subprocess_exec(
                    *program.restore_command(snapshot.path, work_dir, reading, str(snapshot.made_of["pipe"])),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[reading],
                    start_new_session=True,
                )
                os.close(reading)
                reading = -1
                order = Order(str(path), os.getcwd(), template_environment())  # noqa: PTH109 - a text
                await asyncio.to_thread(snapshot.verify)
                accepting = asyncio.create_task(loop.sock_accept(listening))
                ending = asyncio.create_task(process.wait())
                handing = asyncio.create_task(asyncio.to_thread(_write_all, writing, order.encode()))
                both: set[asyncio.Task[Any]] = {accepting, ending}
                await asyncio.wait(both, timeout=_RESTORE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not accepting.done() or ending.done():
                    accepting.cancel()
                    reason = criu.log_tail(work_dir, "restore") if ending.done() else "it took too long"
                    raise CriuError(f"CRIU could not restore it: {reason}")
                ending.cancel()
                await handing
                control, _ = accepting.result()
            finally:
                for descriptor in (reading, writing):
                    if descriptor >= 0:
                        os.close(descriptor)
        socket.send_fds(control, [b"\0"], [1, 2])
        return TemplateProcess(process, control, restored=True)
    except BaseException:
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        raise
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write to a pipe whose reader may have ended."""
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(descriptor, data) :]
