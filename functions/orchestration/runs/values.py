"""What a durable run is, as values: states, steps, events, names and keys (pure)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

RUN_ID_PREFIX: Final = "run_"
APPROVAL: Final = "approval/"
"""Before a step's name: the step in which a person decides about it."""
MAX_STEP_NAME: Final = 256
"""Characters of a step's name."""


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    """To be taken up by any replica."""
    RUNNING = "running"
    """A replica works on it, or did when it was lost."""
    WAITING = "waiting"
    """For an instant or a person; no replica holds it."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more unless somebody resumes it."""
        return self in ENDED


ENDED: Final = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


class StepState(StrEnum):
    """Where a step stands. One that runs has no record: its result is what is recorded."""

    DONE = "done"
    FAILED = "failed"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose run it is: the caller's kind (`key`, `jwt`, `stage`, `anyone`), name and team."""

    kind: str
    name: str
    team: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it is stored. Instants are seconds since the epoch.

    Attributes:
        attempt: how often a replica has taken it up; a replica whose number is not the last one has lost it.
        lost: how often in a row it was taken up from a replica that was lost, without a step finishing.
        lease_until: until when its replica holds it; None: nobody does.
        wake_at: when a waiting run goes on by itself; None: never.
        waiting_for: what a waiting run waits for: `timer STEP` or `approval STEP`.
        working_on: the steps under way when its replica last renewed its lease.
        request: the request as JSON; None where content is not stored.
        origin: request id, trace context as JSON.
        reply: the answer as JSON.
        error: the problem that ended it, as JSON.
        events: the number of the last event.
    """

    id: str
    owner: Owner
    state: RunState
    created: float
    updated: float
    attempt: int = 0
    lost: int = 0
    started: float | None = None
    finished: float | None = None
    lease_owner: str | None = None
    lease_until: float | None = None
    wake_at: float | None = None
    waiting_for: str | None = None
    working_on: str | None = None
    cancel: bool = False
    idempotency_key: str | None = None
    fingerprint: str | None = None
    request: str | None = None
    origin: str = "{}"
    reply: str | None = None
    error: str | None = None
    steps: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it is stored.

    Attributes:
        attempts: how often it was begun and ended, well or badly.
        result: as JSON; None where it failed, or content is not stored.
        error: the problem of its last failure, as JSON.
        usage: tokens by kind, as JSON.
    """

    name: str
    state: StepState
    attempts: int
    started: float
    finished: float
    result: str | None = None
    error: str | None = None
    usage: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run; `seq` counts from 1 without gaps."""

    seq: int
    at: float
    kind: str
    data: str


@dataclass(frozen=True, slots=True)
class Hold:
    """By which a replica may change a run."""

    run_id: str
    replica: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """A run whose lease was renewed."""

    id: str
    cancel: bool


def step_key(run_id: str, step: str) -> str:
    """The idempotency key of a step: the same whichever replica makes the call, and however often."""
    return hashlib.sha256(f"{run_id}/{step}".encode()).hexdigest()


def is_due(run: Run, now: float) -> bool:
    """Whether a replica is to take the run up."""
    match run.state:
        case RunState.QUEUED:
            return True
        case RunState.RUNNING:
            return run.lease_until is None or run.lease_until < now
        case RunState.WAITING:
            return run.wake_at is not None and run.wake_at <= now
    return False


def waits_for_approval(step: str, guarded: frozenset[str]) -> bool:
    """Whether a person is asked before a step: it, or a part of its name, is one of those guarded."""
    return not step.startswith(APPROVAL) and not guarded.isdisjoint((step, *step.split("/")))


def retry_delay(failures: int, first_s: float, asked_s: float | None) -> float:
    """Seconds until a failed step is tried again: doubled each time, or more where the stage asks for it.

    Args:
        failures: how often it has failed; 0 for one that was not begun.
        first_s: after the first failure.
        asked_s: the stage's `Retry-After`.
    """
    return max(min(first_s * 2.0 ** (failures - 1), _LONGEST_RETRY_S), asked_s or 0.0)


_LONGEST_RETRY_S: Final = 3600.0
