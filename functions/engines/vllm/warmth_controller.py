"""Moves a vLLM replica between its warmth levels: cold, standby, asleep, hot.

    cold     -> fetch the model and import vLLM side by side
    standby  -> take the device, fork an engine, load the weights, warm up with a real token
    asleep   -> take the device, wake the engine (CUDA only)
    hot      -> back to the resting warmth when idle, when ordered, or when its turn on the device is over;
                after a crash, fork another engine without an import

All moves hold one lock and read the state again once they have it: a request, an order, a crash and the
supervisor may ask at the same moment. `supervision` decides what to do next while the replica is hot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from functions.engine import EngineError
from functions.engines.vllm import supervision
from functions.engines.vllm.background_tasks import BackgroundTasks
from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.engine_process import EngineProcess
from functions.engines.vllm.engine_slot import EngineSlot
from functions.engines.vllm.launcher import NO_SLEEP_MODE, Launcher
from functions.engines.vllm.request_gate import RequestGate
from functions.engines.vllm.supervision import HotStatus, SupervisionLimits
from functions.engines.vllm.supervisor import Supervisor
from functions.lifecycle import State, Warmth
from functions.replica import ReplicaTracker
from functions.stage import RequestContext, StartError
from knative import env_vars

log = logging.getLogger(__name__)

_RECHECK_SECONDS = 0.1
"""Interval at which a load that waits for the device checks that it is still needed."""
_RESTING_STATES = {Warmth.STANDBY: State.STANDBY, Warmth.ASLEEP: State.ASLEEP}


class _EngineUse:
    """One request's use of the engine.

    A class, since a generator's frames take time before the first token.
    """

    __slots__ = ("_context", "_controller", "_engine")

    def __init__(self, controller: WarmthController, context: RequestContext) -> None:
        self._controller = controller
        self._context = context

    async def __aenter__(self) -> VllmEngine:
        self._engine = await self._controller.acquire(self._context)
        return self._engine

    async def __aexit__(self, *_: object) -> None:
        self._controller.release(self._engine)


class WarmthController:
    """Owner of the engine of one replica.

    Args:
        launcher: what engines are started with.
        slot: where the engine is loaded.
        resting_warmth: where the replica goes when no request needs it.
        limits: time limits of supervision.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        launcher: Launcher,
        slot: EngineSlot,
        resting_warmth: Warmth,
        limits: SupervisionLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launcher = launcher
        self._slot = slot
        slot.on_death = lambda process: self._tasks.start(self._replace(process))
        self._limits = limits
        self._clock = clock
        self.resting_warmth = resting_warmth
        self.requests = RequestGate(clock)
        self._replica: ReplicaTracker | None = None
        self._move_lock = asyncio.Lock()
        self._tasks = BackgroundTasks(self._move_failed)
        self._hot_since = clock()
        self._crashes: tuple[float, ...] = ()
        """Instants of crashes without an answer in between."""
        self._yielding = False
        self._lowering_requested = False
        self._closed = False

    @property
    def engine(self) -> VllmEngine | None:
        """The engine, if it can take a request now."""
        engine = self._slot.engine
        usable = engine is not None and not engine.dead.done() and not self._yielding
        # A replica that drains still answers the requests that it has admitted.
        up = self._replica is not None and self._replica.state in {State.HOT, State.DRAINING}
        return engine if usable and up else None

    @property
    def running(self) -> tuple[VllmEngine, EngineProcess] | None:
        """The engine and its process while the replica is hot; else None."""
        hot = self._replica is not None and self._replica.state is State.HOT
        engine, process = self._slot.engine, self._slot.process
        return (engine, process) if hot and engine and process else None

    async def start(self, replica: ReplicaTracker) -> None:
        """Move from cold to the resting warmth.

        Raises:
            StartError: with the cause.
        """
        self._replica = replica
        replica.on_change(lambda _: self.requests.notify())
        self._launcher.check(self.resting_warmth)
        if self.resting_warmth is not Warmth.STANDBY:
            replica.to(State.LOADING)
        await self._launcher.prepare(replica, complete=self.resting_warmth is Warmth.STANDBY)
        if self.resting_warmth is Warmth.ASLEEP and self._launcher.device == "cpu":
            raise StartError(f"{env_vars.WARMTH} = asleep: {NO_SLEEP_MODE}")
        async with self._move_lock:
            if replica.state is State.STARTING:
                replica.to(State.STANDBY)
            else:
                await self._load(replica)
        if self.resting_warmth is Warmth.ASLEEP:
            await self._lower(State.ASLEEP)
        self._tasks.start(Supervisor(self, self._limits, self._clock).run())

    def hot(self, context: RequestContext) -> _EngineUse:
        """`async with` this to use the engine for one request; the replica stays hot meanwhile.

        Raises:
            EngineError: the engine cannot be had before the request's deadline; retryable.
        """
        return _EngineUse(self, context)

    async def acquire(self, context: RequestContext) -> VllmEngine:
        """The engine, to be given back by `release`; see `hot`."""
        engine = self.engine or await self._wait_for_engine(context)
        self.requests.enter(engine)
        return engine

    def release(self, engine: VllmEngine) -> None:
        """A request needs the engine no longer."""
        self.requests.leave(engine)

    async def set_resting_warmth(self, warmth: Warmth) -> None:
        """Rest at this level from now on. Raising begins at once; lowering waits for the requests in flight.

        Raises:
            ValueError: the replica has no such level; the message says why.
        """
        if warmth is Warmth.COLD:
            raise ValueError("warmth = cold: a replica cannot be cold; must be hot, asleep or standby")
        if warmth is Warmth.ASLEEP and self._launcher.device in {None, "cpu"}:
            raise ValueError(f"warmth = asleep: {NO_SLEEP_MODE}")
        if (
            warmth is Warmth.ASLEEP
            and self.resting_warmth is not Warmth.ASLEEP
            and not self._launcher.sleep_mode_enabled
        ):
            raise ValueError(
                "warmth = asleep: the engine was started without its sleep mode; set enable-sleep-mode"
            )
        self.resting_warmth = warmth
        self._lowering_requested = warmth is not Warmth.HOT
        if warmth is Warmth.HOT:
            self._yielding = False  # a replica that rests hot keeps its device
            self.requests.notify()
            self._tasks.start(self._raise())
        elif self._replica is not None and self._replica.state is State.ASLEEP:
            self._tasks.start(self._lower(_RESTING_STATES[warmth]))

    def hot_status(self, engine: VllmEngine) -> HotStatus:
        """What is known of the replica, for the supervisor."""
        return HotStatus(
            resting_warmth=self.resting_warmth,
            in_use=self.requests.in_use,
            lowering_requested=self._lowering_requested or self._yielding,
            last_used=self.requests.last_used,
            last_output=engine.last_output,
            hot_since=self._hot_since,
            others_waiting=self._slot.others_wait_for_device,
        )

    def yield_device(self) -> None:
        """Admit no new request; the supervisor lowers the replica when the last one has ended."""
        self._yielding = True

    async def lower_if_idle(self) -> None:
        """Return to the resting warmth, unless a request uses the engine."""
        await self._lower(_RESTING_STATES[self.resting_warmth])

    async def close(self) -> None:
        """End everything. May be called twice."""
        self._closed = True
        await self._tasks.close()
        if (engine := await self._slot.unload(graceful=True)) is not None:
            await engine.close()
        await self._launcher.close()

    async def _load(self, replica: ReplicaTracker) -> None:
        """Load an engine; ends HOT. The lock is held.

        Raises:
            StartError: it did not come up.
        """
        await self._slot.load(replica, sleep_mode=self.resting_warmth is Warmth.ASLEEP)
        self._become_hot(replica)

    async def _wake(self, replica: ReplicaTracker) -> None:
        """Wake the engine; ends HOT. The lock is held.

        Raises:
            StartError: it does not answer.
        """
        await self._slot.wake(replica)
        self._become_hot(replica)

    def _become_hot(self, replica: ReplicaTracker) -> None:
        self._hot_since = self.requests.last_used = self._clock()
        self._yielding = False
        if replica.state is State.LOADING:
            replica.to(State.HOT)
        self.requests.notify()

    async def _wait_for_engine(self, context: RequestContext) -> VllmEngine:
        replica = self._replica
        if replica is None:
            raise EngineError("the replica has not begun to start", retryable=True, retry_after=1.0)
        try:
            engine = await self.requests.wait(context, lambda: self._engine_or_raise(replica))
        except TimeoutError:
            missing = "its turn on the device" if self._waits_for_device() else "the engine"
            raise EngineError(
                f"the model was not hot before the deadline; the request waited for {missing}",
                retryable=True,
                status=503,
                retry_after=1.0,
            ) from None
        # The requests that waited for this cold start report it; later ones do not.
        context.paid(replica.last_cold_start)
        return engine

    def _engine_or_raise(self, replica: ReplicaTracker) -> VllmEngine | None:
        """The engine, if it can take a request; else None, and the replica is on its way to be hot.

        Raises:
            EngineError: no engine will come.
        """
        if (engine := self.engine) is not None:
            return engine
        draining = replica.state is State.DRAINING and not self._move_lock.locked()
        if replica.state is State.FAILED or self._closed or draining:
            cause = replica.lifecycle.cause or "the replica is stopping"
            raise EngineError(f"the model cannot answer: {cause}", retryable=True, retry_after=1.0)
        if replica.state in {State.STANDBY, State.ASLEEP}:
            self._tasks.start(self._raise())
        return None

    def _waits_for_device(self) -> bool:
        """Whether a move is under way that has no engine yet."""
        return self._slot.may_wait_for_device and self._move_lock.locked()

    async def _raise(self) -> None:
        """From STANDBY or ASLEEP to HOT."""
        assert self._replica is not None
        replica = self._replica
        async with self._move_lock:
            before = replica.state
            if before not in {State.STANDBY, State.ASLEEP}:
                return
            replica.to(State.LOADING)
            loading = asyncio.create_task(
                self._wake(replica) if before is State.ASLEEP else self._load(replica)
            )
            try:
                while not loading.done():
                    await asyncio.wait({loading}, timeout=_RECHECK_SECONDS)
                    if not loading.done() and self._waits_for_device() and not self._is_wanted():
                        loading.cancel()
                        await asyncio.wait({loading})
                        if replica.state is State.LOADING:
                            replica.to(State.STANDBY)
                        return
                loading.result()
            except StartError as error:
                replica.fail(str(error))
            finally:
                loading.cancel()

    def _is_wanted(self) -> bool:
        return self.requests.waiting > 0 or self.resting_warmth is Warmth.HOT

    async def _lower(self, state: State) -> None:
        """From HOT to STANDBY or ASLEEP, or from ASLEEP to STANDBY, unless a request uses the engine."""
        assert self._replica is not None
        replica = self._replica
        async with self._move_lock:
            if self.requests.in_use:
                return
            if state is State.STANDBY and replica.state in {State.HOT, State.ASLEEP}:
                replica.to(State.STANDBY)
                await self._unload()
            elif state is State.ASLEEP and replica.state is State.HOT:
                replica.to(State.ASLEEP)
                await self._slot.sleep()
            else:
                return
            self._yielding = self._lowering_requested = False
            self._slot.release_device()
            self.requests.notify()

    async def _replace(self, process: EngineProcess) -> None:
        """After a crash of an engine, load another one."""
        self.requests.notify()
        assert self._replica is not None
        replica = self._replica
        async with self._move_lock:
            if self._closed or process is not self._slot.process:
                return
            now = self._clock()
            log.error("engine died", extra={"cause": process.cause, "in_flight": self.requests.in_use})
            engine = self._slot.engine
            answered = engine is not None and engine.last_output > self._hot_since
            # An engine that has answered starts a new count.
            self._crashes = (now,) if answered else (*self._crashes, now)
            if replica.state is State.ASLEEP:
                replica.to(State.STANDBY)
            elif replica.state is State.HOT:
                if supervision.is_crash_looping(self._crashes, self._limits, now):
                    count = len(self._crashes)
                    replica.fail(f"the engine died {count} times without an answer: {process.cause}")
                else:
                    replica.to(State.LOADING)
            await self._unload()
            if replica.state is not State.LOADING:
                return
            try:
                await self._load(replica)
            except StartError as error:
                replica.fail(str(error))

    async def _unload(self) -> None:
        if (engine := await self._slot.unload()) is None:
            return
        # Closing waits for the requests in flight, which fail by their broken connections; a move does not.
        if self._closed:
            await engine.close()
        else:
            self._tasks.start(engine.close())

    def _move_failed(self, error: BaseException) -> None:
        log.error("a change of warmth failed", exc_info=error)
        if self._replica is not None:
            self._replica.fail(f"{type(error).__name__}: {error}")
