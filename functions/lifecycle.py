"""The states of a replica and the transitions between them. Pure: no clock, no I/O.

Liveness, readiness, metrics and the warmth that a request found all follow from the state.

    STARTING -> STANDBY | LOADING | HOT      the process is up, without a model or with everything
    STANDBY  -> LOADING                      a request or an order makes it load
    LOADING  -> HOT | STANDBY                loaded, or ordered back
    HOT      -> ASLEEP | STANDBY | LOADING   idle, ordered down, or the engine died and is loaded again
    ASLEEP   -> LOADING | STANDBY            woken, or ordered further down
    any      -> DRAINING                     told to stop
    any but DRAINING -> FAILED               cannot serve, with a cause

DRAINING and FAILED are left only by the end of the process.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """What a replica is doing."""

    STARTING = "starting"
    STANDBY = "standby"
    LOADING = "loading"
    HOT = "hot"
    ASLEEP = "asleep"
    DRAINING = "draining"
    FAILED = "failed"


class Warmth(StrEnum):
    """How much of its model a replica keeps loaded: where it rests, and what a request found."""

    COLD = "cold"
    STANDBY = "standby"
    ASLEEP = "asleep"
    HOT = "hot"


_S = State
TRANSITIONS = MappingProxyType(
    {
        _S.STARTING: frozenset({_S.STANDBY, _S.LOADING, _S.HOT, _S.DRAINING, _S.FAILED}),
        _S.STANDBY: frozenset({_S.LOADING, _S.DRAINING, _S.FAILED}),
        _S.LOADING: frozenset({_S.HOT, _S.STANDBY, _S.DRAINING, _S.FAILED}),
        _S.HOT: frozenset({_S.ASLEEP, _S.STANDBY, _S.LOADING, _S.DRAINING, _S.FAILED}),
        _S.ASLEEP: frozenset({_S.LOADING, _S.STANDBY, _S.DRAINING, _S.FAILED}),
        _S.DRAINING: frozenset[State](),
        _S.FAILED: frozenset({_S.DRAINING}),
    }
)
"""From a state to the states that may follow it."""

_RESTING = frozenset({_S.STANDBY, _S.ASLEEP})


class TransitionError(ValueError):
    """A transition that the table does not have; a bug in the caller."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The state of a replica, and the one before."""

    state: State = State.STARTING
    previous: State | None = None
    cause: str | None = None
    """Why it failed; None unless FAILED, or DRAINING after it."""

    def to(self, state: State, *, cause: str | None = None) -> "Lifecycle":
        """The lifecycle after a transition.

        Raises:
            TransitionError: the table has no such transition, or FAILED without a cause.
        """
        if state not in TRANSITIONS[self.state]:
            allowed = ", ".join(sorted(TRANSITIONS[self.state])) or "none"
            raise TransitionError(f"{self.state} -> {state} is not allowed; from {self.state}: {allowed}")
        if state is State.FAILED and not cause:
            raise TransitionError("FAILED needs a cause")
        return Lifecycle(state, self.state, cause or self.cause)

    @property
    def live(self) -> bool:
        """Whether the process is worth keeping: in all states but FAILED."""
        return self.state is not State.FAILED and self.cause is None

    @property
    def ready(self) -> bool:
        """Whether a request sent now is answered by this replica.

        STANDBY and ASLEEP are ready: the replica holds the request while it loads. LOADING is ready only on
        the way from one of them; a first load, or one after a crash, is not, so that other replicas take the
        requests.
        """
        if self.state is State.LOADING:
            return self.previous in _RESTING
        return self.state is State.HOT or self.state in _RESTING

    @property
    def warmth(self) -> Warmth:
        """The warmth that a request finds now."""
        at = self.previous if self.state is State.LOADING and self.previous in _RESTING else self.state
        return {State.HOT: Warmth.HOT, State.STANDBY: Warmth.STANDBY, State.ASLEEP: Warmth.ASLEEP}.get(
            at or State.STARTING, Warmth.COLD
        )
