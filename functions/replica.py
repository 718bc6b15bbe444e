"""One running replica: its state, the phases of its cold starts, and the cause of a failure.

The mutable state of a stage's process, made by the application and given to the stage. All calls come from
the event loop's thread.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from functions.lifecycle import Lifecycle, State, Warmth
from functions.timing import ColdStartTiming, Phase

_START_PHASES = (Phase.IMPORT, Phase.WEIGHTS, Phase.INIT, Phase.WARMUP)
"""In their usual order."""


class ReplicaTracker:
    """The stage reports to it; probes, metrics and `Server-Timing` read it.

    A stage's `start` takes it from STARTING to HOT (or STANDBY). An exception of `start` fails it, with the
    exception's message as the cause; `fail` does the same from anywhere.

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
        self._current_began = self._began
        self._current = ColdStartTiming(Warmth.COLD)
        self._hot_since: float | None = None
        self._last: ColdStartTiming | None = None
        self._measured: Phase | None = None
        self._observers: list[Callable[[Lifecycle], None]] = []
        self._cold_start_observers: list[Callable[[ColdStartTiming], None]] = []

    @property
    def lifecycle(self) -> Lifecycle:
        """The state, and the one before."""
        return self._lifecycle

    @property
    def state(self) -> State:
        """The state."""
        return self._lifecycle.state

    @property
    def age(self) -> float:
        """Seconds since the process began."""
        return self._clock() - self._began

    @property
    def cold_start(self) -> ColdStartTiming:
        """The cold start that is under way, or the last one."""
        return self._last if self._last is not None and self.state is State.HOT else self._current

    @property
    def phase(self) -> Phase | None:
        """What a start is doing: the phase that is measured now, else the first that has not ended."""
        if self.state not in {State.STARTING, State.LOADING}:
            return None
        ended = self._current.phases
        return self._measured or next((phase for phase in _START_PHASES if phase not in ended), None)

    @property
    def start_elapsed(self) -> float:
        """Seconds since the cold start began that is under way, or was the last one."""
        return self._clock() - self._current_began

    @property
    def last_cold_start(self) -> ColdStartTiming | None:
        """The last complete cold start; None before it."""
        return self._last

    def to(self, state: State, *, cause: str | None = None) -> None:
        """Change the state. LOADING after STANDBY, ASLEEP or HOT begins a new cold start; HOT completes it.

        Raises:
            functions.lifecycle.TransitionError: there is no such transition.
        """
        before = self._lifecycle
        self._lifecycle = before.to(state, cause=cause)
        if state is State.LOADING and before.state is not State.STARTING:
            # After a crash (HOT -> LOADING) the engine's code is still imported, as in standby.
            warmth = Warmth.STANDBY if before.state is State.HOT else before.warmth
            self._current, self._current_began = ColdStartTiming(warmth), self._clock()
        if state is State.HOT:
            self._hot_since = self._clock()
            done = dataclasses.replace(
                self._current, total=self._hot_since - self._current_began, hot_at=self._hot_since
            )
            self._last = done
            for completed in self._cold_start_observers:
                completed(done)
        for observer in self._observers:
            observer(self._lifecycle)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def fail(self, cause: str) -> None:
        """Change to FAILED, except from FAILED and DRAINING. The application then ends the process."""
        if self.state not in {State.FAILED, State.DRAINING}:
            self.to(State.FAILED, cause=cause)

    def record(self, phase: Phase, seconds: float) -> None:
        """Add a phase's seconds, which end now, to the cold start under way."""
        self._current = self._current.with_phase(phase, seconds, ended=self._clock())

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Record the duration of the block as `phase`, also if it raises."""
        began = self._clock()
        self._measured = phase
        try:
            yield
        finally:
            self._measured = None
            self.record(phase, self._clock() - began)

    async def wait_for(self, *states: State) -> State:
        """Wait for one of the states, or for FAILED or DRAINING, and return it."""
        awaited = {*states, State.FAILED, State.DRAINING}
        while self.state not in awaited:
            await self._changed.wait()
        return self.state

    def cold_start_for(self, since: float) -> ColdStartTiming | None:
        """The last cold start, if a request that waits since the instant `since` waited for it; else None."""
        return self._last if self._hot_since is not None and since < self._hot_since else None

    def on_change(self, observer: Callable[[Lifecycle], None]) -> None:
        """Call `observer` after each transition."""
        self._observers.append(observer)

    def on_cold_start(self, observer: Callable[[ColdStartTiming], None]) -> None:
        """Call `observer` once per completed cold start, when HOT."""
        self._cold_start_observers.append(observer)
