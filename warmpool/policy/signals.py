"""Signals: target tracking of any metric, by the algorithm of Kubernetes' HorizontalPodAutoscaler.

https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#algorithm-details

- A `value` asks for ceil(ready replicas * result / target), an `averageValue` for ceil(result / target).
- A ratio of result to target within the tolerance asks for the replicas that are ready.
- The floor rises at once and falls to the highest number of the stabilisation window.
- Of several signals, the highest counts. One that cannot be read keeps what it asked for last, for a limited
  time; it stops no other one.

Other than there, a `value` asks for nothing while no replica is ready (there is nothing to measure), and at
most for twice the ready replicas or four more, because it extrapolates from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.decision import PolicyName, Proposal, SignalOutcome
from warmpool.domain.duration import format_duration
from warmpool.domain.field_types import MAX_REPLICAS
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Observation
from warmpool.domain.signals import Signal, SignalReading
from warmpool.policy.formatting import format_instant

STALE_AFTER: Final = timedelta(hours=1)
"""How long what a signal asked for last is held when it cannot be read."""
HOLDS_FOR: Final = timedelta(minutes=10)
"""How long a floor holds unless it is renewed, so that it goes when the controller does."""
_AT_LEAST_MORE: Final = 4
"""Replicas that a `value` may add however few are ready, as a HorizontalPodAutoscaler's default policies."""
_NO_SOURCE: Final = SignalReading(None, "the controller has no Prometheus: see --prometheus")

Recommendation = tuple[datetime, int]


@dataclass(frozen=True, slots=True)
class SignalState:
    """What one signal asked for.

    `recommendations` are those of the stabilisation window that no later one reaches: the highest is first.
    """

    recommendations: tuple[Recommendation, ...] = ()
    read_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SignalsState:
    """The state of each signal; one whose definition changes begins anew."""

    by_signal: Mapping[Signal, SignalState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one signal asks for now, until when if nothing else happens, and why."""

    signal: Signal
    state: SignalState
    replicas: int
    until: datetime | None
    text: str
    value: float | None = None
    problem: str = ""


_NO_SIGNALS: Final = SignalsState()


def initial() -> SignalsState:
    """The state before the first reading."""
    return _NO_SIGNALS


def step(state: SignalsState, observation: Observation, now: datetime) -> tuple[SignalsState, Proposal]:
    """Propose the highest number of replicas that a signal asks for."""
    if not observation.pool.signals:
        return initial(), Proposal(PolicyName.SIGNALS, NOTHING, "signals/off", "The pool has no signals.")
    asked = [
        _ask(signal, state.by_signal.get(signal, SignalState()), observation, now)
        for signal in observation.pool.signals
    ]
    state = SignalsState({entry.signal: entry.state for entry in asked})
    highest = max(asked, key=lambda entry: entry.replicas)
    unreadable = [entry for entry in asked if entry.problem]
    if highest.replicas:
        reason = f"signal/{highest.signal.name}"
    else:
        reason = "signals/no-reading" if len(unreadable) == len(asked) else "signals/idle"
    return state, Proposal(
        PolicyName.SIGNALS,
        Floor.of(highest.replicas) if highest.replicas else NOTHING,
        reason,
        "; ".join(entry.text for entry in asked) + ".",
        _until(asked, highest.replicas, now),
        missing=tuple(f"signal {entry.signal.name} ({entry.problem})" for entry in unreadable),
        follows_demand=bool(highest.replicas),
        signals=tuple(
            SignalOutcome(entry.signal.name, entry.value, entry.replicas, entry.problem) for entry in asked
        ),
    )


def _until(asked: list[_Asked], replicas: int, now: datetime) -> datetime | None:
    """When the highest number changes if the readings stay the same."""
    if not replicas:
        return None
    ends = [entry.until for entry in asked if entry.replicas == replicas]
    lasting = [end if end is not None else now + HOLDS_FOR for end in ends]
    return min(max(lasting), now + HOLDS_FOR)


def _ask(signal: Signal, state: SignalState, observation: Observation, now: datetime) -> _Asked:
    reading = observation.signals.get(signal.name, _NO_SOURCE)
    measures_replicas = signal.target.value is not None
    if measures_replicas and not observation.ready:
        text = f"{signal.name}: no replica is ready to be measured"
        return _stabilized(signal, state, 0, text, None, now)
    if reading.value is None:
        return _without_reading(signal, state, reading.problem, observation, now)
    wanted = _wanted(signal, reading.value, observation.ready)
    target = signal.target.value if measures_replicas else signal.target.average_value
    per_replica = "" if measures_replicas else " per replica"
    text = (
        f"{signal.name} is {reading.value:.4g}, target {target:g}{per_replica}, {observation.ready} ready: "
        f"{wanted} asked for"
    )
    return _stabilized(signal, state, wanted, text, reading.value, now)


def _wanted(signal: Signal, result: float, ready: int) -> int:
    """The replicas that bring the signal to its target."""
    value, average = signal.target.value, signal.target.average_value
    if value is not None:
        ratio = result / value
        wanted = math.ceil(round(ready * ratio, 6))
        wanted = min(wanted, max(2 * ready, ready + _AT_LEAST_MORE))
    else:
        assert average is not None
        ratio = result / (average * ready) if ready else math.inf
        wanted = math.ceil(round(result / average, 6)) if result < average * MAX_REPLICAS else MAX_REPLICAS
    if abs(ratio - 1) <= signal.tolerance:
        return min(ready, MAX_REPLICAS)
    return min(wanted, MAX_REPLICAS)


def _stabilized(  # noqa: PLR0917  one value of each step
    signal: Signal, state: SignalState, wanted: int, text: str, value: float | None, now: datetime
) -> _Asked:
    window = signal.stabilization_window
    higher = tuple(
        (at, replicas)
        for at, replicas in state.recommendations
        if replicas > wanted and now - window < at <= now
    )
    state = SignalState((*higher, (now, wanted)), now)
    if not higher:
        return _Asked(signal, state, wanted, None, text, value)
    at, replicas = higher[0]
    text += f", {replicas} within the last {format_duration(window)}"
    return _Asked(signal, state, replicas, at + window, text, value)


def _without_reading(
    signal: Signal, state: SignalState, problem: str, observation: Observation, now: datetime
) -> _Asked:
    """What it asked for last, for a limited time."""
    since, held = state.read_at, max((number for _, number in state.recommendations), default=0)
    if since is None or not since <= now < since + STALE_AFTER:
        return _Asked(signal, SignalState(), 0, None, f"{signal.name} has no reading", problem=problem)
    at = format_instant(since, now, observation.pool.zone)
    text = (
        f"{signal.name} has no reading since {at}: the {held} that it asked for are held for at most "
        f"{format_duration(STALE_AFTER)}"
    )
    return _Asked(signal, state, held, since + STALE_AFTER, text, problem=problem)
