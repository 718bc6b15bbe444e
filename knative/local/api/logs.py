"""A replica's output as `kubectl logs` asks for it: which run of the container, from when, with what times.

A replica writes into its file itself, without times, so the file is looked at once a second: what was not
there at the last look was written since. That is how exactly `--since` and `--timestamps` are known. Where
one run of a container ends and the next begins is noted when the pod's status says that it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from knative import cluster
from knative.local import errors, objects
from knative.local.api import requests
from knative.local.store import Change, Key, Kind, Record, Store

LogPath = Callable[..., Path]
"""Where a container's output is: by namespace, pod and, for one that does not serve requests, its name."""
_File = tuple[str, ...]
"""What `LogPath` takes."""

_LOOK_S = 1.0
_POLL_S = 0.2
_PIECE = 64 * 1024
_MOST_MARKS = 16_384
"""Looks remembered for each pod; past that, every second one of the older half is forgotten."""


@dataclass(slots=True)
class _Output:
    """What is known of one pod's file."""

    size: int = 0
    offsets: list[int] = field(default_factory=list)
    """How long the file was at each look that found it longer."""
    times: list[datetime] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """Where a run of the container ended."""
    ended: int = 0
    """Runs that have ended, those included whose output is gone."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a log was asked for."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    limit_bytes: int | None = None

    @classmethod
    def of(cls, request: Request, now: datetime) -> LogOptions:
        """The options in a request's query.

        Raises:
            ApiError: 400, one can't be read; 422, two of them exclude each other.
        """
        seconds, text = requests.number(request, "sinceSeconds"), request.query_params.get("sinceTime")
        if seconds is not None and text:
            raise errors.ApiError(
                422,
                "Invalid",
                "PodLogOptions is invalid: sinceTime: Forbidden: at most one of `sinceTime` or "
                "`sinceSeconds` may be specified",
            )
        since = None if seconds is None else now - timedelta(seconds=seconds)
        if text:
            try:
                since = objects.parse_timestamp(text)
            except ValueError as problem:
                raise errors.bad_request(
                    f"sinceTime: Invalid value: {text!r}: must be a time such as 2026-01-31T08:00:00Z"
                ) from problem
        if since is not None and since.tzinfo is None:
            raise errors.bad_request(f"sinceTime: Invalid value: {text!r}: must name its time zone")
        return cls(
            follow=requests.flag(request, "follow"),
            previous=requests.flag(request, "previous"),
            timestamps=requests.flag(request, "timestamps"),
            tail_lines=requests.number(request, "tailLines"),
            since=since,
            limit_bytes=requests.number(request, "limitBytes"),
        )


class PodLogs:
    """The logs of all pods.

    Args:
        store: the pods.
        path: where a container's output is.
        now: the wall clock.
    """

    def __init__(self, store: Store, path: LogPath, now: Callable[[], datetime]) -> None:
        self._store = store
        self._path = path
        self._now = now
        self._outputs: dict[_File, _Output] = {}
        store.subscribe(self._changed)

    async def run(self) -> None:
        """Look at all files once a second, until cancelled."""
        while True:
            for record in self._store.list(cluster.POD):
                for container in _containers(record.obj):
                    self._look(_file(record.key, record.obj, container))
            await asyncio.sleep(_LOOK_S)

    def _changed(self, change: Change) -> None:
        key, pod = change.record.key, change.record.obj
        if key.resource != cluster.POD:
            return
        for container in _containers(pod):
            file = _file(key, pod, container)
            if change.kind is Kind.DELETED:
                self._look(file)  # for who follows it
                del self._outputs[file]
            elif (
                change.before is not None
                and "running" in _state(change.before.obj, container)
                and "running" not in _state(pod, container)
            ):
                output = self._look(file)
                output.ends.append(output.size)
                output.ended += 1

    def _look(self, file: _File) -> _Output:
        """Note how long the file is now."""
        output = self._outputs.setdefault(file, _Output())
        try:
            size = self._path(*file).stat().st_size
        except FileNotFoundError:
            return output
        if size < output.size:  # it was rotated
            output.offsets.clear()
            output.times.clear()
            output.ends.clear()
            output.size = 0
        if size > output.size:
            output.size = size
            output.offsets.append(size)
            output.times.append(self._now())
            if len(output.offsets) > _MOST_MARKS:
                half = len(output.offsets) // 2
                del output.offsets[:half:2], output.times[:half:2]
        return output

    def answer(self, request: Request, record: Record) -> Response:
        """The log of one pod.

        Raises:
            ApiError: the container doesn't exist or has not run, or an option can't be read.
        """
        options = LogOptions.of(request, self._now())
        pod = record.obj
        container = _chosen(pod, request.query_params.get("container"))
        if not pod["spec"].get("nodeName"):
            return PlainTextResponse("")  # as on a cluster, where nobody could be asked yet
        state = _state(pod, container)
        ended = "terminated" in state or "terminated" in _state(pod, container, "lastState")
        where = f'container "{container}" in pod "{record.key.name}"'
        if options.previous and "terminated" not in _state(pod, container, "lastState"):
            raise errors.bad_request(f"previous terminated {where} not found")
        if not ended and "running" not in state:
            waiting = (state.get("waiting") or {}).get("reason", "PodInitializing")
            raise errors.bad_request(f"{where} is waiting to start: {waiting}")
        file = _file(record.key, pod, container)
        runs = self._look(file).ended
        run = runs if "running" in state else runs - 1
        if options.previous and "waiting" not in state:
            run -= 1  # while it waits to start again, the previous run is the last one
        return StreamingResponse(self._stream(record.key, file, run, options), media_type="text/plain")

    async def _stream(self, key: Key, file: _File, run: int, options: LogOptions) -> AsyncIterator[bytes]:
        """The lines, as far as they are there, and those that come if they are followed."""
        left = options.limit_bytes
        async with contextlib.aclosing(self._lines(key, file, run, options)) as pieces:
            async for piece in pieces:
                if left is None:
                    yield piece
                    continue
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    return

    async def _lines(self, key: Key, name: _File, run: int, options: LogOptions) -> AsyncGenerator[bytes]:
        output = self._look(name)
        follow = options.follow and run == output.ended
        begin, end = _span(output, run)
        try:
            with self._path(*name).open("rb") as file:
                position = _start(file, begin, end, output, options)
                while True:
                    file.seek(position)
                    data = file.read(min(_PIECE, end - position))
                    if position + len(data) < end or (follow and options.timestamps):
                        # A line is told as a whole, unless it is longer than a piece or the last one.
                        whole = data[: data.rfind(b"\n") + 1]
                        data = whole or (data if len(data) == _PIECE else b"")
                    if data:
                        yield self._stamped(output, position, data) if options.timestamps else data
                        position += len(data)
                        await asyncio.sleep(0)  # others' turn
                        continue
                    if not follow:
                        return
                    await asyncio.sleep(_POLL_S)
                    follow = output.ended == run and self._store.get(key) is not None
                    if follow:
                        self._look(name)
                    if output.size < position:
                        position = 0  # it was rotated
                    end = _span(output, run)[1]
        except FileNotFoundError:
            return

    def _stamped(self, output: _Output, begin: int, data: bytes) -> bytes:
        """The lines of `data`, which begins at `begin`, each with the time when it was first seen."""
        stamped = []
        for line in data.splitlines(keepends=True):
            begin += len(line)
            at = bisect_left(output.offsets, begin)
            time = output.times[at] if at < len(output.times) else self._now()
            stamped.append(objects.micro_timestamp(time).encode() + b" " + line)
        return b"".join(stamped)


def _start(file: BinaryIO, begin: int, end: int, output: _Output, options: LogOptions) -> int:
    """Where in the file, which one run fills from `begin` to `end`, the wanted lines begin."""
    if options.tail_lines is None and options.since is None:
        return begin
    file.seek(begin)
    data = file.read(end - begin)
    skipped = 0 if options.tail_lines is None else _before_last(data, options.tail_lines)
    older = 0 if options.since is None else bisect_left(output.times, options.since)
    if older:
        known = max(0, output.offsets[older - 1] - begin)  # all that was there before that time
        skipped = max(skipped, data.rfind(b"\n", 0, known) + 1 if known < len(data) else len(data))
    return begin + skipped


def _span(output: _Output, run: int) -> tuple[int, int]:
    """From where to where the output of one run is in the file; the runs are counted from 0."""
    at = run - (output.ended - len(output.ends))
    begin = output.ends[at - 1] if at > 0 else 0
    end = output.ends[at] if 0 <= at < len(output.ends) else output.size
    return (0, 0) if at < 0 else (begin, end)


def _before_last(data: bytes, lines: int) -> int:
    """Bytes before the last so many lines."""
    if lines == 0:
        return len(data)
    at = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def _containers(pod: Mapping[str, Any]) -> list[str]:
    """The names of all containers, those that run before the others last."""
    spec = pod["spec"]
    return [
        str(item.get("name") or "user-container")
        for item in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
    ]


def _file(key: Key, pod: Mapping[str, Any], container: str) -> _File:
    containers = pod["spec"]["containers"]
    serving = next((item for item in containers if item.get("ports")), containers[0])
    if container == (serving.get("name") or "user-container"):
        return key.namespace, key.name
    return key.namespace, key.name, container


def _state(pod: Mapping[str, Any], container: str, which: str = "state") -> Mapping[str, Any]:
    """What a container is doing, or how its run before this one ended (`lastState`)."""
    status = pod.get("status") or {}
    for item in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if item["name"] == container:
            return item.get(which) or {}
    return {}


def _chosen(pod: Mapping[str, Any], name: str | None) -> str:
    """The container that is meant.

    Raises:
        ApiError: 400, there is no such container, or there are several to choose from.
    """
    pod_name, found = pod["metadata"]["name"], _containers(pod)
    count = len(pod["spec"]["containers"])
    names, first = found[:count], found[count:]
    if name:
        if name not in found:
            raise errors.bad_request(f"container {name} is not valid for pod {pod_name}")
        return name
    if count == 1:
        return names[0]
    text = f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(names)}]"
    if first:
        text += f" or one of the init containers: [{' '.join(first)}]"
    raise errors.bad_request(text)
