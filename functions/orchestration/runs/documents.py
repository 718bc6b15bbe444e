"""Runs as JSON documents and as server-sent events (pure)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from functions.orchestration.runs.values import Event, Run, Step


def run_document(
    run: Run, steps: Sequence[Step] | None = None, *, reply: str | None = None, content: bool = False
) -> dict[str, Any]:
    """A run as its caller sees it.

    Args:
        run: as it is stored.
        steps: of the run; None: left out.
        reply: the answer as JSON.
        content: with the request and the results of steps.
    """
    kind, _, step = (run.waiting_for or "").partition(" ")
    document = {
        "id": run.id,
        "state": run.state.value,
        "created": _instant(run.created),
        "updated": _instant(run.updated),
        "started": _instant(run.started),
        "finished": _instant(run.finished),
        "seconds": None if run.finished is None else round(run.finished - run.created, 3),
        "attempt": run.attempt,
        "waiting_for": {"kind": kind, "step": step, "until": _instant(run.wake_at)} if kind else None,
        "working_on": run.working_on,
        "cancelling": True if run.cancel and not run.state.ended else None,
        "usage": None if steps is None else _usage(steps),
        "steps": run.steps if steps is None else [_step(step, content=content) for step in steps],
        "request": _parsed(run.request) if content else None,
        "reply": _parsed(reply),
        "error": _parsed(run.error),
        "last_event": run.events,
    }
    return {name: value for name, value in document.items() if value is not None}


def encode_run_event(event: Event) -> bytes:
    """One of a run's events as a server-sent event; its id is what `Last-Event-ID` resumes from."""
    data = json.dumps({"at": _instant(event.at), **json.loads(event.data)})
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n".encode()


def encode_end(run: Run, reply: str | None) -> bytes:
    """The last event of a run that has ended: `reply`, `error` or `cancelled`."""
    if run.error is not None:
        name, data = "error", run.error
    elif reply is not None:
        name, data = "reply", reply
    else:
        name, data = "end", json.dumps({"state": run.state.value})
    return f"id: {run.events}\nevent: {name}\ndata: {data}\n\n".encode()


def _usage(steps: Sequence[Step]) -> dict[str, int]:
    """Tokens by kind of all steps."""
    total: Counter[str] = Counter()
    for step in steps:
        total.update(json.loads(step.usage or "{}"))
    return dict(total)


def _step(step: Step, *, content: bool) -> dict[str, Any]:
    document = {
        "name": step.name,
        "state": step.state.value,
        "attempts": step.attempts,
        "started": _instant(step.started),
        "seconds": round(step.finished - step.started, 6),
        "usage": _parsed(step.usage) or None,
        "result": _parsed(step.result) if content else None,
        "error": _parsed(step.error),
    }
    return {name: value for name, value in document.items() if value is not None}


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _instant(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 has them."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
