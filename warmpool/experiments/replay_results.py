"""What a replay measured, as values and as a file of JSON lines.

The first line says what was replayed, then there is one line for each request and, at the end of each arm,
one for the arm. A file that was cut off (a full disk, a killed process) is read up to its last whole line.
Instants are seconds since the arm began, latencies count from the instant at which a request was due.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from warmpool.experiments.errors import ExperimentError

VERSION: Final = 1
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class ReplayHeader:
    """What was replayed, and on what.

    Attributes:
        url: of the function.
        service: NAMESPACE/NAME of the Service whose replicas are counted; None: not known.
        trace: the trace's name.
        speed: how much faster than recorded.
        requests: how many each arm sends.
        started: of the whole replay.
        container_concurrency: of the Revision; 0: no limit.
        autoscaling: the Revision's annotations.
        gpus: of one replica; a replica without any is counted as one.
    """

    url: str
    service: str | None
    trace: str
    speed: float
    requests: int
    started: datetime
    container_concurrency: int = 0
    autoscaling: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 1


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request.

    Attributes:
        arm: its name.
        index: in the trace.
        scheduled_s: when it was due.
        sent_s: when it was sent.
        ttft_s: to the first token, or byte; None without an answer.
        e2e_s: to the end; None without an answer.
        itl_s: gaps between tokens.
        cold: whether it waited for a start; None: nothing tells.
        warmth: as the replica named it.
        queue_s: held by the activator.
        phases: of the cold start that it waited for, s.
        in_flight: other requests of the replay that were on their way when it was sent.
        input_tokens: as the server counted them.
        output_tokens: as the server counted them.
        status: of the HTTP response; None without one.
        error: what went wrong; None for a good answer.
    """

    arm: str
    index: int
    scheduled_s: float
    sent_s: float
    ttft_s: float | None = None
    e2e_s: float | None = None
    itl_s: tuple[float, ...] = ()
    cold: bool | None = None
    warmth: str | None = None
    queue_s: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    in_flight: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    status: int | None = None
    error: str | None = None

    @property
    def late_s(self) -> float:
        """How much later than due the sender sent it."""
        return max(0.0, self.sent_s - self.scheduled_s)

    @property
    def answered_s(self) -> float | None:
        """From its being sent to the end of its answer."""
        return None if self.e2e_s is None else self.e2e_s - self.late_s

    @property
    def first_token_s(self) -> float | None:
        """From its being sent to the first token."""
        return None if self.ttft_s is None else self.ttft_s - self.late_s


@dataclass(frozen=True, slots=True)
class GpuSeconds:
    """GPU-seconds that replicas held, by what they did; None where that is not told apart."""

    total: float
    starting: float | None = None
    busy: float | None = None
    idle: float | None = None
    source: str = "platform"
    """`platform`: its own accounting; `pods`: the lifetimes of pods times their GPUs."""


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """One arm.

    Attributes:
        arm: its name.
        pool: the WarmPool's spec while it ran, without target; None: switched off; empty: left as it was.
        began: instant 0 of the arm's clock.
        first_due_s: when the first request was due.
        released_s: when the pool was switched off after the last answer; None: it was not.
        seconds: until its last replica was gone.
        floor: that was held when the first request was due; None: not known.
        starts: (instant of readiness, seconds from schedule to ready) of each replica that became ready.
        stops: seconds that each replica that ended took from the order to end until it was gone.
        gpu: what was held; None: nobody counts it.
        held_back: requests that waited for the limit on requests in flight.
        complete: whether every request was sent.
    """

    arm: str
    pool: Mapping[str, Any] | None
    began: datetime
    first_due_s: float
    released_s: float | None
    seconds: float
    floor: int | None
    starts: tuple[tuple[float, float], ...]
    stops: tuple[float, ...]
    gpu: GpuSeconds | None
    held_back: int
    complete: bool


@dataclass(frozen=True, slots=True)
class ReplayResults:
    """A whole file."""

    header: ReplayHeader
    arms: tuple[ArmRecord, ...]
    requests: tuple[RequestRecord, ...]

    def of(self, arm: str) -> list[RequestRecord]:
        """The requests of one arm, in the order of the trace."""
        mine = (request for request in self.requests if request.arm == arm)
        return sorted(mine, key=lambda request: request.index)

    @property
    def names(self) -> list[str]:
        """The arms' names, also of one whose end is not in the file."""
        return list(dict.fromkeys([*(r.arm for r in self.requests), *(a.arm for a in self.arms)]))


def line(record: ReplayHeader | RequestRecord | ArmRecord) -> str:
    """A record as one line of JSON."""
    kind = {ReplayHeader: "replay", RequestRecord: "request", ArmRecord: "arm"}[type(record)]
    content: dict[str, Any] = {"kind": kind}
    if kind == "replay":
        content["version"] = VERSION
    content |= {key: _plain(value) for key, value in asdict(record).items() if value not in (None, (), {})}
    if isinstance(record, ArmRecord):
        content["pool"] = record.pool  # empty and None are different things
    return json.dumps(content)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def read_results(path: Path) -> ReplayResults:
    """Read a results file.

    Raises:
        ExperimentError: it cannot be read, or is not one; the text names the line.
    """
    try:
        records = list(_records(path))
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: is not a results file of a replay: {error}") from error
    headers = [record for record in records if isinstance(record, ReplayHeader)]
    if not headers or records[0] is not headers[0] or len(headers) > 1:
        raise ExperimentError(f"{path}: is not a results file of a replay: its first line must say so")
    return ReplayResults(
        headers[0],
        tuple(record for record in records if isinstance(record, ArmRecord)),
        tuple(record for record in records if isinstance(record, RequestRecord)),
    )


def _records(path: Path) -> Iterator[ReplayHeader | RequestRecord | ArmRecord]:
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            yield _record(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and number > 1:
                return  # no line feed behind it: the writer was cut off
            raise ExperimentError(
                f"{path}:{number}: is not a line of a replay's results: {_why(error)}"
            ) from error


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _record(content: dict[str, Any]) -> ReplayHeader | RequestRecord | ArmRecord:
    kind = content.pop("kind")
    if kind == "request":
        return RequestRecord(**content | {"itl_s": tuple(content.get("itl_s", ()))})
    if kind == "arm":
        gpu = content.get("gpu")
        starts = tuple((float(at), float(seconds)) for at, seconds in content.get("starts", ()))
        known: dict[str, Any] = {"released_s": None, "floor": None} | content
        known["began"] = datetime.fromisoformat(content["began"])
        known["gpu"] = None if gpu is None else GpuSeconds(**gpu)
        return ArmRecord(**known | {"starts": starts, "stops": tuple(content.get("stops", ()))})
    if kind != "replay":
        raise ValueError(f"kind = {kind!r}, must be replay, request or arm")
    if (version := content.pop("version")) != VERSION:
        raise ValueError(f"version = {version!r}, must be {VERSION}")
    content.setdefault("service", None)
    return ReplayHeader(**content | {"started": datetime.fromisoformat(content["started"])})
