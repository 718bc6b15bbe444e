"""Which compiled artefacts may be restored: they are code, and run with the engine's rights.

Without a signing key, only what this user wrote into a folder that no other user can write to. With a key,
only what bears the key's signature, whoever wrote it: for a cache that several users or nodes share.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weights.errors import CacheError

SIGNATURE = "signature"
"""Member of an archive's note."""
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UntrustedArtefactsError(CacheError):
    """Artefacts that may not be restored; the message says why."""


class ArtefactTrust:
    """Signs artefacts, and checks them before they are unpacked.

    Args:
        signing_key: of the deployment; None to trust this user's own files.
        uid: this process's user.
    """

    def __init__(self, signing_key: bytes | None = None, *, uid: int | None = None) -> None:
        self._key = signing_key
        self._uid = os.geteuid() if uid is None else uid

    @property
    def file_mode(self) -> int:
        """Of archives: with signatures other users may read them, too."""
        return 0o600 if self._key is None else 0o644

    def prepare(self, folder: Path) -> None:
        """Make the folder of the archives, or make it fit to be trusted.

        Raises:
            UntrustedArtefactsError: it belongs to another user, so that nothing in it would be restored.
            OSError: it cannot be made.
        """
        folder.mkdir(exist_ok=True, mode=0o700 if self._key is None else 0o755)
        if self._key is not None:
            return
        status = folder.lstat()
        if status.st_uid != self._uid:
            raise UntrustedArtefactsError(
                f"{folder} belongs to user {status.st_uid}, must belong to {self._uid}"
            )
        if status.st_mode & _WRITABLE_BY_OTHERS:
            folder.chmod(stat.S_IMODE(status.st_mode) & ~_WRITABLE_BY_OTHERS)

    def sign(self, name: str, sha256: str) -> dict[str, str]:
        """The members to add to the note of the archive with this key name and digest."""
        return {} if self._key is None else {SIGNATURE: self._signature(name, sha256)}

    def check(self, name: str, note: Mapping[str, Any], statuses: Mapping[str, os.stat_result]) -> None:
        """Check an archive.

        Args:
            name: the key's name, which is the archive's.
            note: of the archive; its `sha256` is that of the archive's bytes.
            statuses: of the open folder, note and archive, by what they are called in messages.

        Raises:
            UntrustedArtefactsError: it may not be restored.
        """
        if self._key is not None:
            given = str(note.get(SIGNATURE, ""))
            if not hmac.compare_digest(given.encode(), self._signature(name, str(note["sha256"])).encode()):
                problem = "has a signature of another key" if given else "has no signature"
                raise UntrustedArtefactsError(f"compiled/{name}.tar {problem}")
            return
        for called, status in statuses.items():
            if status.st_uid != self._uid:
                raise UntrustedArtefactsError(
                    f"{called} belongs to user {status.st_uid}, must belong to {self._uid} or be signed"
                )
            if status.st_mode & _WRITABLE_BY_OTHERS:
                mode = stat.S_IMODE(status.st_mode)
                raise UntrustedArtefactsError(
                    f"{called} has mode {mode:04o}, must not be writable by others, or be signed"
                )

    def _signature(self, name: str, sha256: str) -> str:
        assert self._key is not None
        return hmac.new(
            self._key, f"pilotlight-compiled-1 {name} {sha256}".encode(), hashlib.sha256
        ).hexdigest()
