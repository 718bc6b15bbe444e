"""Leases on files of a shared folder: who works on what, known without locks.

A lease is a file that its holder renews (touches) every few seconds. A holder that died, or lost the file
system, stops renewing, and its leases expire by themselves. Ages are measured by the clock of the file system
itself (the time of a file written just now), so the clocks of hosts need not agree. Nothing depends on file
locks, which NFS may lack, or keep after their holder's death.

A lease only saves work. What it guards stays correct when two processes both believe that they hold it:
both then write the same bytes to the same place.
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
"""Age at which a lease that was not renewed has expired."""
_RENEWALS_PER_TERM = 4


class LeaseManager:
    """The leases that one process holds in one cache, and the thread that renews them."""

    def __init__(self, scratch: Path, *, seconds: float = LEASE_SECONDS) -> None:
        """Hold nothing yet.

        Args:
            scratch: a folder on the same file system as the leases, for temporary files.
            seconds: age at which a lease that was not renewed has expired.
        """
        self._scratch = scratch
        self.seconds = seconds
        self._held: set[Path] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._holder = {"token": uuid.uuid4().hex, **_this_process()}

    def acquire(self, path: Path) -> bool:
        """Acquire the lease `path`; False while a live process holds it. OSErrors pass through."""
        if path in self._held:
            return True
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                if self._is_live(path) or not self._remove_expired(path):
                    return False
                continue
            with os.fdopen(descriptor, "w") as file:
                json.dump(self._holder, file)
            self._keep(path)
            return True
        return False

    def publish(self, path: Path, content: Sequence[str]) -> None:
        """Hold a lease under a name that is this process's own, with `content` for others to read."""
        scratch = self._scratch / f"lease-{uuid.uuid4().hex}"
        scratch.write_text(json.dumps({**self._holder, "content": list(content)}))
        scratch.replace(path)
        self._keep(path)

    def release(self, path: Path) -> None:
        """Release a lease; one that another process took over in the meantime stays."""
        with self._lock:
            self._held.discard(path)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(path.read_text())["token"] == self._holder["token"]:
                path.unlink()

    def published(self, folder: Path) -> Iterator[list[str]]:
        """The contents of all live leases in a folder; expired ones are removed."""
        for path in sorted(folder.iterdir()):
            if not self._is_live(path):
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                yield [str(name) for name in json.loads(path.read_text())["content"]]

    def is_held(self, path: Path) -> bool:
        """Whether a live process, this one included, holds the lease."""
        return path in self._held or (path.exists() and self._is_live(path))

    def now(self) -> float:
        """The file system's own time, in seconds since the epoch."""
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            file.write(b".")
            file.flush()
            return os.fstat(file.fileno()).st_mtime

    def close(self) -> None:
        """Release everything."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for path in list(self._held):
            self.release(path)

    def _is_live(self, path: Path) -> bool:
        try:
            renewed = path.stat().st_mtime
            holder = path.read_text()
        except OSError:
            return False
        if self.now() - renewed > self.seconds:
            return False
        with contextlib.suppress(ValueError, KeyError, TypeError):
            here, process = _this_process(), json.loads(holder)
            if all(process[key] == here[key] for key in ("host", "boot", "pid_namespace")):
                return Path("/proc", str(int(process["pid"]))).exists()
        return True  # of another host, or not yet written: its age decides

    def _remove_expired(self, path: Path) -> bool:
        """Move an expired lease away; False if another process was faster."""
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
                self._thread = threading.Thread(target=self._renew, name="lease-renewal", daemon=True)
                self._thread.start()

    def _renew(self) -> None:
        while not self._stop.wait(self.seconds / _RENEWALS_PER_TERM):
            with self._lock:
                held = list(self._held)
            for path in held:
                with contextlib.suppress(OSError):  # removed by an operator: the work stays correct
                    os.utime(path)


def _this_process() -> dict[str, str | int]:
    """What identifies a process: its pid means nothing in another PID namespace or after a reboot."""
    boot = pid_namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pid_namespace = str(Path("/proc/self/ns/pid").readlink())
    return {"host": socket.gethostname(), "boot": boot, "pid_namespace": pid_namespace, "pid": os.getpid()}
