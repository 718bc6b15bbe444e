"""An index of the containers' log files: when a line was written, and where each run of a container ends.

A container writes into its file itself, without timestamps. The size of each file is therefore sampled once
a second: bytes beyond the previous size were written since. The end of a run is recorded when the pod's
status says that the container has terminated.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from knative.client import resources
from knative.local import containers
from knative.local.apiserver.records import Change, EventType, Key
from knative.local.apiserver.store import Store

LogPath = Callable[..., Path]
"""Path of a container's log by namespace, pod and, unless it serves requests, container."""
File = tuple[str, ...]
"""The arguments of `LogPath`, which identify a log file."""

_SAMPLE_S = 1.0
_MAX_SAMPLES = 16_384
"""Samples kept of each file; beyond that, every second one of the older half is dropped."""


@dataclass(slots=True)
class LogIndex:
    """The index of one file."""

    size: int = 0
    ended: int = 0
    """Runs of the container that have ended, including those whose output was rotated away."""
    _offsets: list[int] = field(default_factory=list)
    """Size of the file at each sample that found it larger."""
    _times: list[datetime] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)
    """Offsets at which runs ended."""

    def add_sample(self, size: int, now: datetime) -> None:
        """Record the size of the file at an instant."""
        if size < self.size:  # the file was rotated
            self._offsets.clear()
            self._times.clear()
            self._ends.clear()
            self.size = 0
        if size > self.size:
            self.size = size
            self._offsets.append(size)
            self._times.append(now)
            if len(self._offsets) > _MAX_SAMPLES:
                half = len(self._offsets) // 2
                del self._offsets[:half:2], self._times[:half:2]

    def end_run(self) -> None:
        """Record that what is written from now on belongs to another run."""
        self._ends.append(self.size)
        self.ended += 1

    def span(self, run: int) -> tuple[int, int]:
        """Begin and end of the output of one run, counted from 0; (0, 0) if it was rotated away."""
        at = run - (self.ended - len(self._ends))
        if at < 0:
            return 0, 0
        begin = self._ends[at - 1] if at > 0 else 0
        return begin, self._ends[at] if at < len(self._ends) else self.size

    def size_before(self, instant: datetime) -> int:
        """Size of the file at the last sample before an instant."""
        older = bisect_left(self._times, instant)
        return self._offsets[older - 1] if older else 0

    def time_of(self, offset: int) -> datetime | None:
        """When the file was first sampled with at least this size; None: not yet."""
        at = bisect_left(self._offsets, offset)
        return self._times[at] if at < len(self._times) else None


class LogIndexer:
    """Keeps the indexes of all containers' logs.

    Args:
        store: holds the pods.
        path: where a container's log is.
        now: the wall clock.
    """

    def __init__(self, store: Store, path: LogPath, now: Callable[[], datetime]) -> None:
        self._store = store
        self._path = path
        self._now = now
        self._indexes: dict[File, LogIndex] = {}
        store.subscribe(self._changed)

    async def run(self) -> None:
        """Sample all files once a second, until cancelled."""
        while True:
            files = {
                file_of(record.key, record.obj, container)
                for record in self._store.list(resources.POD)
                for container in container_names(record.obj)
            }
            for gone in self._indexes.keys() - files:
                del self._indexes[gone]
            with contextlib.suppress(OSError, RuntimeError):  # no thread to be had: the next turn may get one
                sizes = await asyncio.to_thread(self._sizes, files)
                now = self._now()
                for file, size in sizes.items():
                    self._indexes.setdefault(file, LogIndex()).add_sample(size, now)
            await asyncio.sleep(_SAMPLE_S)

    def _sizes(self, files: Collection[File]) -> dict[File, int]:
        """Sizes of the files that exist. Blocking."""
        sizes = {}
        for file in files:
            with contextlib.suppress(OSError):
                sizes[file] = self._path(*file).stat().st_size
        return sizes

    def sample(self, file: File) -> LogIndex:
        """Record the size of one file now; returns its index."""
        index = self._indexes.setdefault(file, LogIndex())
        with contextlib.suppress(FileNotFoundError):
            index.add_sample(self._path(*file).stat().st_size, self._now())
        return index

    def _changed(self, change: Change) -> None:
        key, pod = change.record.key, change.record.obj
        if key.resource != resources.POD:
            return
        for container in container_names(pod):
            file = file_of(key, pod, container)
            if change.type is EventType.DELETED:
                self.sample(file)  # for a client that follows it
                del self._indexes[file]
            elif (
                change.before is not None
                and "running" in state(change.before.obj, container)
                and "running" not in state(pod, container)
            ):
                self.sample(file).end_run()


def container_names(pod: Mapping[str, Any]) -> list[str]:
    """The names of all containers."""
    return [str(item.get("name") or "user-container") for item in pod["spec"].get("containers") or ()]


def file_of(key: Key, pod: Mapping[str, Any], container: str) -> File:
    """The log file of a container."""
    serving = containers.serving(pod["spec"])
    if container == (serving.get("name") or "user-container"):
        return key.namespace, key.name
    return key.namespace, key.name, container


def state(pod: Mapping[str, Any], container: str, which: str = "state") -> Mapping[str, Any]:
    """A container's `state` or `lastState` in the pod's status; empty if there is none."""
    status = pod.get("status") or {}
    for item in status.get("containerStatuses") or ():
        if item.get("name") == container:
            return item.get(which) or {}
    return {}
