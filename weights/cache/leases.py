"""Leases: "I am at it", said in a way that outlives nobody.

A lease is a file that its holder touches every few seconds. A holder that died, or lost the file system,
stops touching, and its leases run out by themselves. Age is measured against the time of the file system
itself (a file touched just now), so hosts' clocks need not agree. Nothing here relies on locks, which NFS
may lack or keep after their holder's death.

A lease only saves work. Everything that it guards stays right when two processes believe that they hold it,
because both then write the same bytes to the same place.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

LEASE_SECONDS = 12.0


class LeaseKeeper:
    """The leases of one process in one cache, and the thread that keeps them fresh."""

    def __init__(self, scratch: Path, *, seconds: float = LEASE_SECONDS) -> None:
        """Keep leases.

        Args:
            scratch: a folder on the leases' file system for files of no importance.
            seconds: age at which an untouched lease has run out.
        """
        self._scratch = scratch
        self.seconds = seconds
        self._held: set[Path] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._owner = json.dumps({"token": uuid.uuid4().hex, **_this_process()})

    def take(self, path: Path) -> bool:
        """Take the lease named by `path`, unless somebody who is alive holds it. OSError passes through."""
        if path in self._held:
            return True
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                if self._alive(path) or not self._set_aside(path):
                    return False
                continue
            with os.fdopen(descriptor, "w") as file:
                file.write(self._owner)
            self._keep(path)
            return True
        return False

    def announce(self, path: Path, content: Sequence[str]) -> None:
        """Hold a lease under a name of one's own, with `content` for others to read."""
        scratch = self._scratch / f"lease-{uuid.uuid4().hex}"
        scratch.write_text(json.dumps({**json.loads(self._owner), "content": list(content)}))
        scratch.replace(path)
        self._keep(path)

    def drop(self, path: Path) -> None:
        """Give a lease back."""
        with self._lock:
            self._held.discard(path)
        with contextlib.suppress(OSError):
            if path.read_text() == self._owner or self._owner[:-1] in path.read_text():
                path.unlink()

    def announced(self, folder: Path) -> Iterator[list[str]]:
        """The contents of all live leases in a folder; those that have run out are removed."""
        for path in sorted(folder.iterdir()):
            if not self._alive(path):
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                yield [str(name) for name in json.loads(path.read_text())["content"]]

    def held_by_someone(self, path: Path) -> bool:
        """Whether a live process, this one included, holds the lease."""
        return path in self._held or (path.exists() and self._alive(path))

    def close(self) -> None:
        """Give everything back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for path in list(self._held):
            self.drop(path)

    def _alive(self, path: Path) -> bool:
        try:
            touched = path.stat().st_mtime
            owner = path.read_text()
        except OSError:
            return False
        if self.now() - touched > self.seconds:
            return False
        with contextlib.suppress(ValueError, KeyError, TypeError):
            here, process = _this_process(), json.loads(owner)
            if all(process[key] == here[key] for key in ("host", "boot", "pid_space")):
                return Path("/proc", str(int(process["pid"]))).exists()
        return True  # on another host, or not yet written: its age decides

    def now(self) -> float:
        """The file system's own time."""
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            file.write(b".")
            file.flush()
            return os.fstat(file.fileno()).st_mtime

    def _set_aside(self, path: Path) -> bool:
        """Remove a lease that has run out; False if somebody else was faster."""
        aside = self._scratch / f"lease-{uuid.uuid4().hex}"
        try:
            path.rename(aside)
        except FileNotFoundError:
            return True
        aside.unlink(missing_ok=True)
        return True

    def _keep(self, path: Path) -> None:
        with self._lock:
            self._held.add(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._touch, name="lease-keeper", daemon=True)
                self._thread.start()

    def _touch(self) -> None:
        while not self._stop.wait(self.seconds / 4):
            with self._lock:
                held = list(self._held)
            for path in held:
                with contextlib.suppress(OSError):  # taken away by an operator: the work stays right
                    os.utime(path)


def _this_process() -> dict[str, str | int]:
    """What identifies a process on a host; the pid alone means nothing in another container."""
    boot = pid_space = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pid_space = str(Path("/proc/self/ns/pid").readlink())
    return {"host": socket.gethostname(), "boot": boot, "pid_space": pid_space, "pid": os.getpid()}
