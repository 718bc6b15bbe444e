"""Writes a snapshot of a template process into the node's cache.

    python -m functions.engines.vllm.write_snapshot --cache FOLDER --model-uri URI --model FOLDER

A process of its own, so that the replica's is not held up. Another one that writes the same snapshot has a
lock, and this one leaves it to it. A snapshot appears whole, by one rename.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from functions import logs
from functions.engines.vllm.snapshots import criu
from functions.engines.vllm.snapshots.criu import Criu, CriuError
from functions.engines.vllm.snapshots.identity import first_changed_file, import_environment
from functions.engines.vllm.snapshots.parking import PARKED_FILE, run_in_background
from functions.engines.vllm.template_process import template_environment
from functions.engines.vllm.template_snapshots import KIND, identity_of_template
from functions.settings import process_environment, read_secret, read_settings
from knative import env_vars
from weights import CacheError
from weights.cache.artefact_folders import ArtefactFolders
from weights.cache.artefact_trust import ArtefactTrust
from weights.cache.cache import Cache

log = logging.getLogger(__name__)

_IMPORT_SECONDS = 600.0
_POLL_SECONDS = 0.1
_PIDS = (20_000, 30_000)
"""Process ids that are rarely taken in a container: without a PID namespace, a process gets its id back."""


def park_command(folder: Path, model: Path) -> list[str]:
    """The command of a template process that waits to be written; see `snapshots.parking`."""
    module = "functions.engines.vllm.template"
    return [sys.executable, "-m", module, "--park", str(folder), "--model", str(model)]


def write(
    cache: Cache,
    trust: ArtefactTrust,
    program: Criu,
    *,
    model_uri: str,
    model: Path,
    command: Callable[[Path, Path], list[str]] = park_command,
) -> bool:
    """Write the snapshot that a replica with this environment would look for.

    Args:
        cache: where it is kept.
        trust: signs it.
        program: CRIU.
        model_uri: the model's address.
        model: folder with the model's configuration.
        command: of the process that is written, from the folder for its `parked.json` and the model's.

    Returns:
        False where it is there already, or another process is writing it.

    Raises:
        CriuError: the process could not be imported or written.
        CacheError: the cache cannot be written.
    """
    name = identity_of_template(model_uri).name
    folders = ArtefactFolders(cache, KIND, trust)
    made_of = folders.record(name)
    if made_of is not None and first_changed_file(made_of["files"]) is None:
        return False
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(_only_writer(cache, name)):
            return False
        scratch = stack.enter_context(folders.scratch())
        parked, images = _write_process(program, scratch, command(scratch, model))
        size = sum(path.stat().st_size for path in images.iterdir())
        folders.publish(name, images, {**parked, "criu": program.version})
    log.info("snapshot written", extra={"snapshot": name[:16], "mib": size >> 20})
    return True


@contextlib.contextmanager
def _only_writer(cache: Cache, name: str) -> Iterator[bool]:
    """Whether no other process writes this snapshot, for as long as the context lasts."""
    with cache.writing():
        lock = (cache.root / "tmp" / f"{KIND}-{name}.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _write_process(program: Criu, scratch: Path, command: list[str]) -> tuple[dict[str, Any], Path]:
    """Write a template process into a new folder in `scratch`.

    Returns:
        The files on which it depends and the pipe that it read from, and the folder.

    Raises:
        CriuError: the process could not be imported or written.
    """
    began = time.monotonic()
    images = scratch / "images"
    images.mkdir(mode=0o700)
    with _parked(scratch, command) as (process, pipe):
        imported = time.monotonic()
        parked = json.loads((scratch / PARKED_FILE).read_text(encoding="utf-8"))
        dumped = subprocess.run(  # noqa: S603 - see `find_criu`
            program.dump_command(process.pid, images), capture_output=True, check=False
        )
        if dumped.returncode != 0:
            raise CriuError(f"CRIU could not write the process: {criu.log_tail(images, 'dump')}")
    seconds = {
        "import_seconds": round(imported - began, 2),
        "write_seconds": round(time.monotonic() - imported, 2),
    }
    log.info("template process written", extra=seconds)
    for leftover in (*images.glob("*.log"), *images.glob("stats-*")):
        leftover.unlink()
    return {"files": parked["files"], "pipe": pipe}, images


@contextlib.contextmanager
def _parked(folder: Path, command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A template process that waits to be written, and the name of the pipe that it reads from."""
    reading, writing = os.pipe()
    try:
        pipe = os.readlink(f"/proc/self/fd/{reading}")  # noqa: PTH115 - the name of a pipe, no path
        _choose_next_pid()
        process = subprocess.Popen(  # noqa: S603 - this package
            command,
            stdin=reading,
            env=import_environment(template_environment()),
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(reading)
    try:
        deadline = time.monotonic() + _IMPORT_SECONDS
        while not (folder / PARKED_FILE).exists():
            if process.poll() is not None:
                raise CriuError(
                    f"the template process ended with status {process.returncode} before it was written"
                )
            if time.monotonic() > deadline:
                raise CriuError(f"the template process did not import within {_IMPORT_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
        yield process, pipe
    finally:
        process.kill()
        process.wait()
        os.close(writing)


def _choose_next_pid() -> None:
    """Have the kernel give the next process an id that is rarely taken (needs CAP_CHECKPOINT_RESTORE)."""
    chosen = random.randint(*_PIDS)  # noqa: S311 - no secret
    with contextlib.suppress(OSError):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(chosen), encoding="ascii")


def main() -> int:
    """Write a snapshot; returns the exit code."""
    parser = argparse.ArgumentParser(prog="functions.engines.vllm.write_snapshot")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--model-uri", required=True)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    logs.configure(read_settings())
    run_in_background(background=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is half written is removed
    key = read_secret(env_vars.ARTEFACT_KEY)
    trust = ArtefactTrust(None if key is None else key.encode())
    try:
        program = criu.find_criu(process_environment())
        cache = Cache(options.cache)
        try:
            write(cache, trust, program, model_uri=options.model_uri, model=options.model)
        finally:
            cache.close()
    except (CriuError, CacheError, OSError) as error:
        log.warning("no snapshot is written", extra={"cause": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
