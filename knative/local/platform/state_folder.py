"""The folder in which a platform keeps everything, readable by its owner only, and locked while it runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from knative.local.certificate_authority import TLS_FOLDER
from knative.local.platform.config import PlatformError

_OWNER_ONLY = stat.S_IRWXU


class StateFolder:
    """Paths in a state folder, and its lock.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "state.db"
        """The API's objects."""
        self.kubeconfig = path / "kubeconfig"
        self.logs = path / "logs"
        """Containers' output, `NAMESPACE/POD.log`."""
        self.volumes = path / "volumes"
        self.runs = path / "runs"
        """Files of durable runs, `NAMESPACE/SERVICE.sqlite`."""
        self.claims = path / "claims"
        """Folders of PersistentVolumeClaims, `NAMESPACE/NAME`."""
        self.tls = path / TLS_FOLDER
        """Certificates for what passes between the platform and its replicas."""
        self.cgroups = path / "cgroups"
        """The file that remembers where control groups were made."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder if need be, take its permissions from others, and hold its lock.

        Raises:
            PlatformError: it cannot be used, or another platform uses it.
        """
        try:
            self._make_private()
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise PlatformError(
                f"cannot use the state folder {self.path}: {problem.strerror}; "
                "choose a folder that you own and can write to"
            ) from problem
        try:
            self._lock(lock)
            yield
        finally:
            os.close(lock)

    def _make_private(self) -> None:
        """Give nobody but the owner access to the folder, to what is in it, and to the database to come."""
        self.path.mkdir(parents=True, exist_ok=True, mode=_OWNER_ONLY)
        if self.path.stat().st_mode & stat.S_ISVTX:
            raise PlatformError(
                f"cannot use {self.path} as state folder: all users share it (sticky bit); "
                "choose a folder of the platform's own, such as one below it"
            )
        self.path.chmod(_OWNER_ONLY)
        self.logs.mkdir(exist_ok=True, mode=_OWNER_ONLY)
        self.logs.chmod(_OWNER_ONLY)
        os.close(os.open(self.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for file in self.path.iterdir():
            if file.is_file() and not file.is_symlink():
                file.chmod(0o600)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            raise PlatformError(
                f"the state folder {self.path} is in use by the platform with process id {owner}; "
                "stop that one, or choose another folder"
            ) from problem
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
