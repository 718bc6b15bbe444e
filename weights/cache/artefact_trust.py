"""Which archives of artefacts may be restored: they are code, and run with the engine's rights.

Without a signing key, only what this user wrote on a file system of this node alone, into a folder that no
other user can write to. With a key, only what bears the key's signature, an HMAC-SHA256 (RFC 2104) over the
archive's kind, name and SHA-256, whoever wrote it and wherever: for a cache that users or nodes share.
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
"""Member of an archive's record."""
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
    def signs(self) -> bool:
        """Whether a signature decides; otherwise owner and mode do."""
        return self._key is not None

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

    def check_place(self, root: Path, *, shared: bool) -> None:
        """Check that owner and mode of files mean something where they lie.

        Args:
            root: of the cache, for the message.
            shared: whether other nodes may write the same file system, whose users are not this node's.

        Raises:
            UntrustedArtefactsError: they do not, and there is no key.
        """
        if shared and self._key is None:
            raise UntrustedArtefactsError(
                f"{root} is on a file system that other nodes may write; must be on this node's own file "
                "system, or there must be a signing key"
            )

    def sign(self, kind: str, name: str, sha256: str) -> dict[str, str]:
        """The members to add to the record of an archive with this digest."""
        return {} if self._key is None else {SIGNATURE: self._signature(kind, name, sha256)}

    def check(
        self, kind: str, name: str, record: Mapping[str, Any], statuses: Mapping[str, os.stat_result]
    ) -> None:
        """Check an archive.

        Args:
            kind: of the archive.
            name: of the archive.
            record: of the archive; its `sha256` is that of the archive's bytes.
            statuses: of the open folder, record and archive, by what they are called in messages.

        Raises:
            UntrustedArtefactsError: it may not be restored.
        """
        if self._key is not None:
            given = str(record.get(SIGNATURE, ""))
            expected = self._signature(kind, name, str(record["sha256"]))
            if not hmac.compare_digest(given.encode(), expected.encode()):
                problem = "has a signature of another key" if given else "has no signature"
                raise UntrustedArtefactsError(f"{kind}/{name}.tar {problem}")
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

    def _signature(self, kind: str, name: str, sha256: str) -> str:
        assert self._key is not None
        return hmac.new(
            self._key, f"pilotlight-{kind}-1 {name} {sha256}".encode(), hashlib.sha256
        ).hexdigest()
