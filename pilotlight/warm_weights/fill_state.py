"""How far the filling of a cache is, from a Job, its pod and its log (pure)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """What has become of a filling."""

    WAITING = "waiting"
    FILLING = "filling"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Fill:
    """One cache that is being filled.

    Attributes:
        name: of the Job, or of the folder on this machine.
        node: where it runs, if that is known.
        state: what has become of it.
        detail: what it waits for, or why it failed.
        done_bytes: in the cache by now; None before the first report.
        total_bytes: of the model.
        read_bytes: that came from the source; None before the end.
        seconds: that it took so far.
    """

    name: str
    node: str | None = None
    state: State = State.WAITING
    detail: str = ""
    done_bytes: int | None = None
    total_bytes: int | None = None
    read_bytes: int | None = None
    seconds: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in {State.DONE, State.FAILED}


def with_line(fill: Fill, line: str) -> Fill:
    """The filling after one line of its log; lines that are no report change nothing."""
    try:
        report = json.loads(line)
    except ValueError:
        return fill
    if not isinstance(report, dict):
        return fill
    kind = report.get("kind")
    if kind == "failed":
        return replace(fill, detail=str(report.get("message", "")))
    if kind not in {"progress", "done"}:
        return fill
    return replace(
        fill,
        detail="",
        done_bytes=_count(report.get("done_bytes")),
        total_bytes=_count(report.get("total_bytes")),
        read_bytes=_count(report.get("read_bytes")),
        seconds=report.get("seconds") if isinstance(report.get("seconds"), int | float) else None,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def of_job(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], log: Sequence[str]) -> Fill:
    """The filling that a Job does.

    Args:
        job: as the server has it.
        pods: of this Job.
        log: the last lines of its newest pod.
    """
    newest = max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "", default=None)
    node = None if newest is None else newest["spec"].get("nodeName")
    fill = Fill(job["metadata"]["name"], node)
    for line in log:
        fill = with_line(fill, line)
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["status"] != "True":
            continue
        if condition["type"] == "Complete":
            return replace(fill, state=State.DONE, detail="")
        if condition["type"] == "Failed":
            said = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            return replace(fill, state=State.FAILED, detail=fill.detail or said)
    if fill.detail:
        return replace(fill, detail=f"tried again after: {fill.detail}")
    if fill.done_bytes is not None:
        return replace(fill, state=State.FILLING)
    return replace(fill, detail="no pod yet" if newest is None else _what_for(newest))


def _what_for(pod: Mapping[str, Any]) -> str:
    """What a pod waits for, in the words of the scheduler or the kubelet; empty while it starts."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message") or condition.get("reason") or "not scheduled")
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return ": ".join(part for part in (waiting.get("reason"), waiting.get("message")) if part)
    return ""
