"""A vLLM replica's way up and down the ladder of warmth: cold, standby, asleep, hot.

    cold     -> fetch the model and import vLLM side by side
    standby  -> take the device, fork an engine, load, warm up with a real token
    asleep   -> take the device, wake the engine (CUDA only)
    hot      -> idle, told so, its turn over: back to the resting rung; dead: forked anew, no import

Moves hold one lock and look again at the state once they have it, so that a request, an order, a crash and
the clock may all ask at the same moment. What to do next while hot is decided in `tending`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp

from functions.engine import EngineError
from functions.engines.vllm import supervision
from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.device import DeviceTurn
from functions.engines.vllm.launch import NO_SLEEP, Launcher
from functions.engines.vllm.processes import EngineProcess
from functions.engines.vllm.supervision import Move, Patience, View
from functions.lifecycle import Lifecycle, State, Warmth
from functions.replica import Replica
from functions.stage import RequestContext, StartError
from functions.timing import Phase
from knative import env_vars

log = logging.getLogger(__name__)

_TEND_SECONDS = 0.1
_RESTING = {Warmth.STANDBY: State.STANDBY, Warmth.ASLEEP: State.ASLEEP}


class _Hot:
    """A request's hold on the engine: a class, for a generator's frames are time before the first token."""

    __slots__ = ("_context", "_engine", "_ladder")

    def __init__(self, ladder: Ladder, context: RequestContext) -> None:
        self._ladder = ladder
        self._context = context

    async def __aenter__(self) -> VllmEngine:
        self._engine = await self._ladder.take(self._context)
        return self._engine

    async def __aexit__(self, *_: object) -> None:
        self._ladder.leave(self._engine)


class Ladder:
    """Owner of the engine of one replica.

    Args:
        launcher: knows how to start it.
        rest: the rung to rest on.
        patience: when to give up.
        device: the replica's place in the queue for its device; None for a device of its own.
        sleep_level: vLLM's, for the rung asleep: 1 keeps the weights in host memory, 2 drops them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        launcher: Launcher,
        rest: Warmth,
        patience: Patience | None = None,
        *,
        device: DeviceTurn | None = None,
        sleep_level: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launcher = launcher
        self._patience = patience or Patience()
        self._turn = device
        self._sleep_level = sleep_level
        self._clock = clock
        self.rest = rest
        """The rung to which the replica goes when nobody needs it."""
        self.on_use: Callable[[int], None] = lambda _: None
        """Hears how many requests the engine has whenever another one comes to it."""
        self._replica: Replica | None = None
        self._process: EngineProcess | None = None
        self._engine: VllmEngine | None = None
        self._moving = asyncio.Lock()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_use = 0
        """Requests that have the engine."""
        self._held = 0
        """Requests that wait for it."""
        self._last_used = self._hot_since = clock()
        self._deaths: tuple[float, ...] = ()
        self._yielding = False
        self._ordered_down = False
        self._closed = False

    @property
    def engine(self) -> VllmEngine | None:
        """The engine, if it can answer now."""
        usable = self._engine is not None and not self._engine.dead.done() and not self._yielding
        return self._engine if usable and self._replica is not None and self._is_up(self._replica) else None

    async def start(self, replica: Replica) -> None:
        """From nothing to the resting rung.

        Raises:
            StartError: with the cause.
        """
        self._replica = replica
        replica.on_change(self._notify)
        self._launcher.check(self.rest)
        if self.rest is not Warmth.STANDBY:
            replica.to(State.LOADING)
        await self._launcher.prepare(replica, complete=self.rest is Warmth.STANDBY)
        if self.rest is Warmth.ASLEEP and self._launcher.device == "cpu":
            raise StartError(f"{env_vars.WARMTH} = asleep: {NO_SLEEP}")
        async with self._moving:
            if replica.state is State.STARTING:
                replica.to(State.STANDBY)
            else:
                await self._load(replica)
        if self.rest is Warmth.ASLEEP:
            await self._lower(State.ASLEEP)
        self._spawn(self._tend())

    def hot(self, context: RequestContext) -> _Hot:
        """`async with` it: the engine for one request; the replica stays up while it is in use.

        Raises:
            EngineError: it cannot be had before the request's deadline; retryable.
        """
        return _Hot(self, context)

    async def take(self, context: RequestContext) -> VllmEngine:
        """The engine, to be given back by `leave`; see `hot`."""
        engine = self.engine or await self._wait_for_engine(context)
        self._in_use += 1
        self._last_used = self._clock()
        self.on_use(self._in_use)
        engine.enter()
        return engine

    def leave(self, engine: VllmEngine) -> None:
        """A request needs the engine no longer."""
        engine.leave()
        self._in_use -= 1
        self._last_used = self._clock()

    async def order(self, rung: Warmth) -> None:
        """Rest on this rung from now on, and go there: up at once, down as soon as nobody uses the engine.

        Raises:
            ValueError: the rung is not for this replica; the message says why.
        """
        if rung is Warmth.COLD:
            raise ValueError("warmth = cold: a replica cannot be cold; must be hot, asleep or standby")
        if rung is Warmth.ASLEEP and self._launcher.device in {None, "cpu"}:
            raise ValueError(f"warmth = asleep: {NO_SLEEP}")
        if rung is Warmth.ASLEEP and self.rest is not Warmth.ASLEEP and not self._launcher.sleeps:
            raise ValueError(
                "warmth = asleep: the engine was started without its sleep mode; set enable-sleep-mode"
            )
        self.rest = rung
        self._ordered_down = rung is not Warmth.HOT
        if rung is Warmth.HOT:
            self._spawn(self._rise())
        elif self._replica is not None and self._replica.state is State.ASLEEP:
            self._spawn(self._lower(_RESTING[rung]))

    async def close(self) -> None:
        """End everything. May be called twice."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._unload(gently=True)
        await self._launcher.close()

    async def _load(self, replica: Replica) -> None:
        """Fork an engine and make it answer; ends HOT. The lock is held.

        Raises:
            StartError: it did not come up.
        """
        await self._take_device(replica)
        try:
            await self._launcher.revive(replica)
            process = self._process = self._launcher.fork(sleep_mode=self.rest is Warmth.ASLEEP)
            engine = await self._launcher.answering(replica, process)
        except StartError:
            await self._unload(gently=False)
            self._give_device_back()
            raise
        process.dead.add_done_callback(lambda _: self._spawn(self._replace(process)))
        self._become_hot(replica, engine)

    def _become_hot(self, replica: Replica, engine: VllmEngine) -> None:
        self._engine = engine
        self._hot_since = self._last_used = self._clock()
        self._yielding = False
        if replica.state is State.LOADING:
            replica.to(State.HOT)
        self._notify(replica.lifecycle)

    async def _take_device(self, replica: Replica) -> None:
        if self._turn is not None:
            with replica.measure(Phase.DEVICE):
                await self._turn.acquire()

    def _give_device_back(self) -> None:
        if self._turn is not None:
            self._turn.release()

    async def _wait_for_engine(self, context: RequestContext) -> VllmEngine:
        replica = self._replica
        if replica is None:
            raise EngineError("the replica has not begun to start", retryable=True, retry_after=1.0)
        began = self._clock()
        self._held += 1
        try:
            async with asyncio.timeout(context.remaining()):
                while (engine := self.engine) is None:
                    stopping = replica.state is State.DRAINING and not self._moving.locked()
                    if replica.state is State.FAILED or self._closed or stopping:
                        cause = replica.lifecycle.cause or "the replica is stopping"
                        raise EngineError(
                            f"the model cannot answer: {cause}", retryable=True, retry_after=1.0
                        )
                    if replica.state in {State.STANDBY, State.ASLEEP}:
                        self._spawn(self._rise())
                    await self._changed.wait()
        except TimeoutError:
            what = "for its turn on the device" if self._waits_for_device() else "for the engine"
            raise EngineError(
                f"the model was not hot before the deadline; it waited {what}",
                retryable=True,
                status=503,
                retry_after=1.0,
            ) from None
        finally:
            self._held -= 1
        # Whoever waited paid for this cold start, and nobody after.
        context.paid(replica.claim_cold_start() or replica.climb)
        context.record("held", self._clock() - began)
        return engine

    def _waits_for_device(self) -> bool:
        """A load is under way and has not come to its engine yet."""
        return self._turn is not None and self._process is None and self._moving.locked()

    async def _rise(self) -> None:
        """From STANDBY or ASLEEP to HOT."""
        assert self._replica is not None
        replica = self._replica
        async with self._moving:
            before = replica.state
            if before not in {State.STANDBY, State.ASLEEP}:
                return
            replica.to(State.LOADING)
            loading = asyncio.create_task(
                self._wake(replica) if before is State.ASLEEP else self._load(replica)
            )
            try:
                while not loading.done():
                    await asyncio.wait({loading}, timeout=_TEND_SECONDS)
                    if not loading.done() and self._waits_for_device() and not self._wanted():
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

    def _wanted(self) -> bool:
        return self._held > 0 or self.rest is Warmth.HOT

    async def _lower(self, rung: State) -> None:
        """From HOT to STANDBY or ASLEEP, unless somebody uses the engine."""
        assert self._replica is not None
        replica = self._replica
        async with self._moving:
            if self._in_use:
                return
            if rung is State.STANDBY and replica.state in {State.HOT, State.ASLEEP}:
                replica.to(State.STANDBY)
                await self._unload(gently=False)
            elif rung is State.ASLEEP and replica.state is State.HOT and self._engine is not None:
                replica.to(State.ASLEEP)
                await self._engine.sleep(self._sleep_level)
            else:
                return
            self._yielding = self._ordered_down = False
            self._give_device_back()
            self._notify(replica.lifecycle)

    async def _wake(self, replica: Replica) -> None:
        await self._take_device(replica)
        if self._engine is None or self._engine.dead.done():
            await self._load(replica)
            return
        try:
            with replica.measure(Phase.WEIGHTS):
                await self._engine.wake(self._sleep_level)
            with replica.measure(Phase.WARMUP):
                await self._engine.warm_up()
        except (EngineError, aiohttp.ClientError) as error:
            raise StartError(f"the engine does not wake: {error}") from None
        self._become_hot(replica, self._engine)

    async def _replace(self, process: EngineProcess) -> None:
        """Answer an engine's death with another engine."""
        self._notify()
        assert self._replica is not None
        replica = self._replica
        async with self._moving:
            if self._closed or process is not self._process:
                return
            now = self._clock()
            log.error("engine died", extra={"cause": process.cause, "in_flight": self._in_use})
            answered = self._engine is not None and self._engine.last_heard > self._hot_since
            # Once it has answered, whatever kills the next one is another story.
            self._deaths = (now,) if answered else (*self._deaths, now)
            if replica.state is State.ASLEEP:
                replica.to(State.STANDBY)
            elif replica.state is State.HOT and supervision.is_hopeless(self._deaths, self._patience, now):
                replica.fail(f"the engine died {len(self._deaths)} times without an answer: {process.cause}")
            elif replica.state is State.HOT:
                replica.to(State.LOADING)
            await self._unload(gently=False)
            if replica.state is not State.LOADING:
                return
            try:
                await self._load(replica)
            except StartError as error:
                replica.fail(str(error))

    async def _unload(self, *, gently: bool) -> None:
        engine, self._engine = self._engine, None
        process, self._process = self._process, None
        if process is not None:
            if gently and self._launcher.spans_processes:
                await process.stop()
            else:
                process.kill()
                await asyncio.wait({process.gone}, timeout=10)
        if engine is not None:
            # After the processes: the requests in flight learn it from their broken connections, and nobody
            # has to wait until the last of them has.
            if self._closed:
                await engine.close()
            else:
                self._spawn(engine.close())

    async def _tend(self) -> None:
        """Look a few times per second at what is hot, and do what `tending` says."""
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            engine, process = self._engine, self._process
            if (
                engine is None
                or process is None
                or self._replica is None
                or self._replica.state is not State.HOT
            ):
                continue
            move = supervision.next_move(
                View(
                    rest=self.rest,
                    in_use=self._in_use,
                    ordered_down=self._ordered_down,
                    last_used=self._last_used,
                    last_heard=engine.last_heard,
                    hot_since=self._hot_since,
                    others_waiting=self._turn is not None and self._turn.others_waiting(),
                ),
                self._patience,
                self._clock(),
            )
            if move is Move.PROBE:
                heard = engine.last_heard
                silent = not await engine.answers(self._patience.probe) and engine.last_heard == heard
                # Whatever it said meanwhile, to the probe or to a request, shows that it lives.
                if silent and self._in_use and process.alive:
                    log.error("engine stalled", extra={"engine": process.number, "in_flight": self._in_use})
                    process.kill("the engine stalled")
            elif move is Move.YIELD:
                self._yielding = True
            elif move is Move.LOWER:
                await self._lower(_RESTING[self.rest])
            if self._yielding and not self._in_use:
                await self._lower(_RESTING.get(self.rest, State.STANDBY))

    def _is_up(self, replica: Replica) -> bool:
        """HOT, or draining with an engine that still answers."""
        return replica.state in {State.HOT, State.DRAINING}

    def _notify(self, _: Lifecycle | None = None) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _spawn(self, move: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            move.close()
            return
        task = asyncio.get_running_loop().create_task(move)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a move on the ladder failed", exc_info=error)
            if self._replica is not None:
                self._replica.fail(f"{type(error).__name__}: {error}")
