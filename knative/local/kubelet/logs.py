"""The output of containers: one file for each, rotated when it grows long."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

ROTATE_BYTES = 10 * 1024 * 1024
KEPT_FILES = 200
"""Files kept of pods that are gone; the oldest are deleted first."""
_TAIL_BYTES = 2048
_TAIL_LINES = 20
_MESSAGE_BYTES = 4096
"""Of a termination message, as Kubernetes limits it."""


class ContainerLogs:
    """The folder of logs.

    The serving container writes `NAMESPACE/POD.log`, any other `NAMESPACE/POD.CONTAINER.log` (the name of a
    pod has no dot). The file with the suffix `.log.1` holds what was written before the last rotation.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, namespace: str, pod: str, container: str | None = None) -> Path:
        """A container's file; None: that of the container that serves requests."""
        return self._folder / namespace / (f"{pod}.log" if container is None else f"{pod}.{container}.log")

    def open(self, namespace: str, pod: str, container: str | None = None) -> int:
        """A file descriptor to append to; the caller closes it."""
        path = self.path(namespace, pod, container)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Appending, because rotation empties the file under the process that writes it.
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def tail(self, namespace: str, pod: str, container: str | None = None, *, since: int = 0) -> str:
        """The last lines, as many as Kubernetes puts into a termination message."""
        try:
            with self.path(namespace, pod, container).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(since if since <= size else 0, size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.strip().splitlines()[-_TAIL_LINES:])

    def termination_path(self, namespace: str, pod: str, container: str | None = None) -> Path:
        """The file in which a running container may leave its termination message."""
        return self.path(namespace, pod, container).with_suffix(".termination")

    def take_termination_message(self, namespace: str, pod: str, container: str | None = None) -> str:
        """The message that a container has left, if any; it is deleted."""
        path = self.termination_path(namespace, pod, container)
        try:
            with path.open("rb") as file:
                message = file.read(_MESSAGE_BYTES)
            path.unlink(missing_ok=True)
        except OSError:
            return ""
        return message.decode(errors="replace").strip()

    def size(self, namespace: str, pod: str, container: str | None = None) -> int:
        """The file's length: bytes written since the last rotation."""
        try:
            return self.path(namespace, pod, container).stat().st_size
        except FileNotFoundError:
            return 0

    def rotate(self, running: Collection[tuple[str, str]]) -> None:
        """Rotate long files, and delete old files of pods that are not `running`. Blocking."""
        gone: list[tuple[float, Path]] = []
        for path in self._folder.glob("*/*.log"):
            try:
                stat = path.stat()
                if stat.st_size > ROTATE_BYTES:
                    shutil.copyfile(path, path.with_suffix(".log.1"))
                    os.truncate(path, 0)
            except FileNotFoundError:
                continue
            if (path.parent.name, path.stem.partition(".")[0]) not in running:
                gone.append((stat.st_mtime, path))
        gone.sort()
        for _, path in gone[: max(0, len(gone) - KEPT_FILES)]:
            path.unlink(missing_ok=True)
            path.with_suffix(".log.1").unlink(missing_ok=True)
