"""The `log` subresource of pods: options, the lines of one run of a container, and following them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from knative.local import objects
from knative.local.apiserver import errors
from knative.local.apiserver.api import log_index, query
from knative.local.apiserver.api.log_index import File, LogIndex, LogIndexer, LogPath
from knative.local.apiserver.records import Key, Record
from knative.local.apiserver.store import Store

_POLL_S = 0.2
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which part of a log is wanted (`PodLogOptions`)."""

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
            ApiError: 400, an option can't be read; 422, two of them exclude each other.
        """
        seconds, text = query.number(request, "sinceSeconds"), request.query_params.get("sinceTime")
        if seconds is not None and text:
            raise errors.ApiError(
                422,
                "Invalid",
                "PodLogOptions is invalid: sinceTime: Forbidden: at most one of `sinceTime` or "
                "`sinceSeconds` may be specified",
            )
        since = None
        if seconds is not None:
            with contextlib.suppress(OverflowError):  # before the year 1: no bound
                since = now - timedelta(seconds=seconds)
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
            follow=query.flag(request, "follow"),
            previous=query.flag(request, "previous"),
            timestamps=query.flag(request, "timestamps"),
            tail_lines=query.number(request, "tailLines"),
            since=since,
            limit_bytes=query.number(request, "limitBytes"),
        )


class PodLogs:
    """Answers requests for the logs of pods.

    Args:
        store: holds the pods.
        path: where a container's log is.
        now: the wall clock.
    """

    def __init__(self, store: Store, path: LogPath, now: Callable[[], datetime]) -> None:
        self._store = store
        self._path = path
        self._now = now
        self._indexer = LogIndexer(store, path, now)

    async def run(self) -> None:
        """Keep the index of the logs, until cancelled."""
        await self._indexer.run()

    def answer(self, request: Request, record: Record) -> Response:
        """The log of one pod.

        Raises:
            ApiError: the container doesn't exist or has not run, or an option can't be read.
        """
        options = LogOptions.of(request, self._now())
        pod = record.obj
        container = _chosen(pod, request.query_params.get("container"))
        if not pod["spec"].get("nodeName"):
            return PlainTextResponse("")  # not scheduled: on a cluster there is no kubelet to ask yet
        state = log_index.state(pod, container)
        ended = "terminated" in state or "terminated" in log_index.state(pod, container, "lastState")
        where = f'container "{container}" in pod "{record.key.name}"'
        if options.previous and "terminated" not in log_index.state(pod, container, "lastState"):
            raise errors.bad_request(f"previous terminated {where} not found")
        if not ended and "running" not in state:
            waiting = (state.get("waiting") or {}).get("reason", "PodInitializing")
            raise errors.bad_request(f"{where} is waiting to start: {waiting}")
        file = log_index.file_of(record.key, pod, container)
        runs = self._indexer.sample(file).ended
        run = runs if "running" in state else runs - 1
        if options.previous and "waiting" not in state:
            run -= 1  # while the container waits to be restarted, its previous run is the last one
        return StreamingResponse(self._stream(record.key, file, run, options), media_type="text/plain")

    async def _stream(self, key: Key, file: File, run: int, options: LogOptions) -> AsyncIterator[bytes]:
        """The wanted lines, within `limitBytes`."""
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

    async def _lines(self, key: Key, name: File, run: int, options: LogOptions) -> AsyncGenerator[bytes]:
        """The wanted lines of the run, and those still to be written if the log is followed."""
        index = self._indexer.sample(name)
        follow = options.follow and run == index.ended
        begin, end = index.span(run)
        try:
            with self._path(*name).open("rb") as file:
                position = _start(file, begin, end, index, options)
                while True:
                    file.seek(position)
                    data = file.read(max(0, min(_CHUNK_BYTES, end - position)))
                    if position + len(data) < end or (follow and options.timestamps):
                        # Whole lines only, unless one is longer than a chunk or the last one.
                        whole = data[: data.rfind(b"\n") + 1]
                        data = whole or (data if len(data) == _CHUNK_BYTES else b"")
                    if data:
                        yield self._stamped(index, position, data) if options.timestamps else data
                        position += len(data)
                        await asyncio.sleep(0)  # let other tasks run
                        continue
                    if not follow:
                        return
                    await asyncio.sleep(_POLL_S)
                    follow = index.ended == run and self._store.get(key) is not None
                    if follow:
                        self._indexer.sample(name)
                    if index.size < position:
                        position = 0  # the file was rotated
                    end = index.span(run)[1]
        except FileNotFoundError:
            return

    def _stamped(self, index: LogIndex, begin: int, data: bytes) -> bytes:
        """The lines of `data`, which begins at offset `begin`, each with the time when it was sampled."""
        stamped = []
        for line in data.splitlines(keepends=True):
            begin += len(line)
            time = index.time_of(begin) or self._now()
            stamped.append(objects.micro_timestamp(time).encode() + b" " + line)
        return b"".join(stamped)


def _start(file: BinaryIO, begin: int, end: int, index: LogIndex, options: LogOptions) -> int:
    """The offset of the first wanted line of a run that fills the file from `begin` to `end`."""
    if options.tail_lines is None and options.since is None:
        return begin
    file.seek(begin)
    data = file.read(end - begin)
    skipped = 0 if options.tail_lines is None else _before_last(data, options.tail_lines)
    older = 0 if options.since is None else index.size_before(options.since) - begin
    if older > 0:
        skipped = max(skipped, data.rfind(b"\n", 0, older) + 1 if older < len(data) else len(data))
    return begin + skipped


def _before_last(data: bytes, lines: int) -> int:
    """The offset in `data` of the last `lines` lines."""
    if lines == 0:
        return len(data)
    at = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def _chosen(pod: Mapping[str, Any], name: str | None) -> str:
    """The container whose log is wanted.

    Raises:
        ApiError: 400, there is no such container, or several to choose from and no name.
    """
    pod_name, names = pod["metadata"]["name"], log_index.container_names(pod)
    if name:
        if name not in names:
            raise errors.bad_request(f"container {name} is not valid for pod {pod_name}")
        return name
    if len(names) == 1:
        return names[0]
    raise errors.bad_request(
        f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(names)}]"
    )
