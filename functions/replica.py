"""One running replica: its state, the phases of its cold starts, and the cause of a failure.

The mutable heart of a stage's process, owned by the app and handed to the stage. All calls come from the
event loop's thread.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from functions.lifecycle import Lifecycle, State, Warmth
from functions.timing import ColdStart, Phase


class Replica:
    """What the stage reports to and what probes, metrics and `Server-Timing` read.

    A stage's `start` moves it from STARTING to HOT (or STANDBY). An exception out of `start` fails it with
    the exception's message as the cause; `fail` does the same from anywhere.

    Args:
        process_started: wall instant (seconds since the epoch) at which the process began.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        process_started: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._lifecycle = Lifecycle()
        self._changed = asyncio.Event()
        age = 0.0 if process_started is None else max(0.0, wall() - process_started)
        self._began = clock() - age
        self._began_climb = self._began
        self._climb = ColdStart(Warmth.COLD)
        self._hot_since: float | None = None
        self._unclaimed: ColdStart | None = None
        self._last: ColdStart | None = None
        self._observers: list[Callable[[Lifecycle], None]] = []
        self._cold_start_observers: list[Callable[[ColdStart], None]] = []

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the replica is now."""
        return self._lifecycle

    @property
    def state(self) -> State:
        """The lifecycle's state."""
        return self._lifecycle.state

    @property
    def age(self) -> float:
        """Seconds since the process began."""
        return self._clock() - self._began

    @property
    def climb(self) -> ColdStart:
        """The way up to HOT that is under way, or the last one."""
        return self._last if self._last is not None and self.state is State.HOT else self._climb

    def to(self, state: State, *, cause: str | None = None) -> None:
        """Move. Going LOADING from STANDBY, ASLEEP or HOT begins a new cold start; HOT completes it.

        Raises:
            functions.lifecycle.TransitionError: no such move.
        """
        before = self._lifecycle
        self._lifecycle = before.to(state, cause=cause)
        if state is State.LOADING and before.state is not State.STARTING:
            # After a crash (HOT -> LOADING) the engine's code is still imported, as in standby.
            warmth = Warmth.STANDBY if before.state is State.HOT else before.warmth
            self._climb, self._began_climb = ColdStart(warmth), self._clock()
        if state is State.HOT:
            self._hot_since = self._clock()
            done = ColdStart(self._climb.warmth, self._climb.phases, self._hot_since - self._began_climb)
            self._last = self._unclaimed = done
            for completed in self._cold_start_observers:
                completed(done)
        for observer in self._observers:
            observer(self._lifecycle)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def fail(self, cause: str) -> None:
        """Move to FAILED unless already FAILED or DRAINING; the app logs the cause and ends the process."""
        if self.state not in {State.FAILED, State.DRAINING}:
            self.to(State.FAILED, cause=cause)

    def record(self, phase: Phase, seconds: float) -> None:
        """Add a phase's seconds to the cold start under way."""
        self._climb = self._climb.with_phase(phase, seconds)

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Record how long the block takes as `phase`, also when it raises."""
        began = self._clock()
        try:
            yield
        finally:
            self.record(phase, self._clock() - began)

    async def wait_for(self, *states: State) -> State:
        """Wait until the replica is in one of the states (or FAILED or DRAINING) and return it."""
        awaited = {*states, State.FAILED, State.DRAINING}
        while self.state not in awaited:
            await self._changed.wait()
        return self.state

    def claim_cold_start(self) -> ColdStart | None:
        """The cold start that the caller's request paid for: only the first to ask after HOT gets it."""
        claimed, self._unclaimed = self._unclaimed, None
        return claimed

    def cold_start_for(self, since: float) -> ColdStart | None:
        """The last cold start, if a request that waits since the instant `since` waited for it; else None."""
        return self._last if self._hot_since is not None and since < self._hot_since else None

    def on_change(self, observer: Callable[[Lifecycle], None]) -> None:
        """Call `observer` after each move."""
        self._observers.append(observer)

    def on_cold_start(self, observer: Callable[[ColdStart], None]) -> None:
        """Call `observer` once per completed cold start, when HOT."""
        self._cold_start_observers.append(observer)
