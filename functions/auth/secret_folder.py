"""A Secret that is mounted as a folder, re-read when it changes.

Kubernetes replaces the files of such a volume within about a minute of a change, by renaming a link, which
changes the folder's modification time. Nothing is watched: a request that comes more than a second after the
last look makes one `stat`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds from one look at the folder to the next."""
SETTLED_S = 2.0
"""A folder that changed less than so many seconds ago is read again: one tick of its clock can have several
changes."""
MAX_ENTRY_BYTES = 64 * 1024


class SecretFolder:
    """The entries of a Secret.

    Args:
        path: the folder; it may be missing, as that of an optional Secret.
        clock: monotonic seconds.
        wall: seconds since the epoch, as files have them.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._clock = clock
        self._wall = wall
        self._looked: float | None = None
        self._modified: int | None = None
        self._settled = False
        self._entries: dict[str, bytes] = {}
        self.version = 0
        """Changes whenever the entries do."""

    def entries(self) -> dict[str, bytes]:
        """The entries by name, at most `LOOK_S` old; those read last if the folder cannot be read now."""
        now = self._clock()
        if self._looked is not None and now - self._looked < LOOK_S:
            return self._entries
        self._looked = now
        try:
            modified = self._path.stat().st_mtime_ns
            if modified != self._modified or not self._settled:
                self._read()
                self._modified = modified
                self._settled = self._wall() - modified / 1e9 > SETTLED_S
        except FileNotFoundError:
            self._replace({})
            self._modified = None
        except OSError as error:
            log.warning("a Secret cannot be read", extra={"path": str(self._path), "reason": error.strerror})
        return self._entries

    def _read(self) -> None:
        # `..data` and what begins like it is Kubernetes' own; other hidden files are being written.
        found = {}
        for file in self._path.iterdir():
            if file.name.startswith("."):
                continue
            try:
                if file.is_file() and file.stat().st_size <= MAX_ENTRY_BYTES:
                    found[file.name] = file.read_bytes()
            except FileNotFoundError:
                continue  # removed meanwhile
        self._replace(found)

    def _replace(self, entries: dict[str, bytes]) -> None:
        if entries != self._entries:
            self._entries = entries
            self.version += 1
