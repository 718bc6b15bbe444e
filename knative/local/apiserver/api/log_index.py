"""How the output of containers grows: when a line was first seen, and where one run ends and the next begins.

A container writes into its file itself, without times, so the file is looked at once a second: what was not
there at the last look was written since. Where one run of a container ends and the next begins is noted when
the pod's status says that it has ended.
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
from knative.local.apiserver.store import Change, EventType, Key, Store

LogPath = Callable[..., Path]
"""Where a container's output is: by namespace, pod and, for one that does not serve requests, its name."""
File = tuple[str, ...]
"""What `LogPath` takes."""

_LOOK_S = 1.0
_MOST_MARKS = 16_384
"""Looks remembered for each file; past that, every second one of the older half is forgotten."""


@dataclass(slots=True)
class LogIndex:
    """What is known of one file."""

    size: int = 0
    ended: int = 0
    """Runs of the container that have ended, those included whose output is gone."""
    _offsets: list[int] = field(default_factory=list)
    """How long the file was at each look that found it longer."""
    _times: list[datetime] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)
    """Where a run ended."""

    def grown(self, size: int, now: datetime) -> None:
        """Note how long the file is."""
        if size < self.size:  # it was rotated
            self._offsets.clear()
            self._times.clear()
            self._ends.clear()
            self.size = 0
        if size > self.size:
            self.size = size
            self._offsets.append(size)
            self._times.append(now)
            if len(self._offsets) > _MOST_MARKS:
                half = len(self._offsets) // 2
                del self._offsets[:half:2], self._times[:half:2]

    def run_ended(self) -> None:
        """Note that what comes from now on is another run's."""
        self._ends.append(self.size)
        self.ended += 1

    def span(self, run: int) -> tuple[int, int]:
        """From where to where the output of one run is in the file; the runs are counted from 0."""
        at = run - (self.ended - len(self._ends))
        if at < 0:
            return 0, 0
        begin = self._ends[at - 1] if at > 0 else 0
        return begin, self._ends[at] if at < len(self._ends) else self.size

    def known_before(self, instant: datetime) -> int:
        """How much of the file was there before an instant."""
        older = bisect_left(self._times, instant)
        return self._offsets[older - 1] if older else 0

    def seen_at(self, offset: int) -> datetime | None:
        """When the file was first seen to be at least so long; None: it has not been yet."""
        at = bisect_left(self._offsets, offset)
        return self._times[at] if at < len(self._times) else None


class LogIndexer:
    """The outputs of all containers.

    Args:
        store: the pods.
        path: where a container's output is.
        now: the wall clock.
    """

    def __init__(self, store: Store, path: LogPath, now: Callable[[], datetime]) -> None:
        self._store = store
        self._path = path
        self._now = now
        self._outputs: dict[File, LogIndex] = {}
        store.subscribe(self._changed)

    async def run(self) -> None:
        """Look at all files once a second, until cancelled."""
        while True:
            files = {
                file_of(record.key, record.obj, container)
                for record in self._store.list(resources.POD)
                for container in names(record.obj)
            }
            for gone in self._outputs.keys() - files:
                del self._outputs[gone]
            with contextlib.suppress(OSError, RuntimeError):  # no thread: the next look may have one
                sizes = await asyncio.to_thread(self._sizes, files)
                now = self._now()
                for file, size in sizes.items():
                    self._outputs.setdefault(file, LogIndex()).grown(size, now)
            await asyncio.sleep(_LOOK_S)

    def _sizes(self, files: Collection[File]) -> dict[File, int]:
        """How long the files are that there are. Blocking."""
        sizes = {}
        for file in files:
            with contextlib.suppress(OSError):
                sizes[file] = self._path(*file).stat().st_size
        return sizes

    def look(self, file: File) -> LogIndex:
        """Note how long a file is now."""
        output = self._outputs.setdefault(file, LogIndex())
        with contextlib.suppress(FileNotFoundError):
            output.grown(self._path(*file).stat().st_size, self._now())
        return output

    def _changed(self, change: Change) -> None:
        key, pod = change.record.key, change.record.obj
        if key.resource != resources.POD:
            return
        for container in names(pod):
            file = file_of(key, pod, container)
            if change.type is EventType.DELETED:
                self.look(file)  # for who follows it
                del self._outputs[file]
            elif (
                change.before is not None
                and "running" in state(change.before.obj, container)
                and "running" not in state(pod, container)
            ):
                self.look(file).run_ended()


def names(pod: Mapping[str, Any]) -> list[str]:
    """The names of all containers."""
    return [str(item.get("name") or "user-container") for item in pod["spec"].get("containers") or ()]


def file_of(key: Key, pod: Mapping[str, Any], container: str) -> File:
    """Where a container of a pod writes."""
    serving = containers.serving(pod["spec"])
    if container == (serving.get("name") or "user-container"):
        return key.namespace, key.name
    return key.namespace, key.name, container


def state(pod: Mapping[str, Any], container: str, which: str = "state") -> Mapping[str, Any]:
    """What a container is doing, or how its run before this one ended (`lastState`)."""
    status = pod.get("status") or {}
    for item in status.get("containerStatuses") or ():
        if item.get("name") == container:
            return item.get(which) or {}
    return {}
