"""A vLLM replica's way up and down the ladder of warmth: cold, standby, asleep, hot.

    cold     -> fetch the weights and import vLLM side by side
    standby  -> fork an engine: wait for the device, load, warm up with a real token
    hot      -> after idling back to the resting rung; after a crash a new fork, without an import

One task at a time moves the replica (`_climb`), so that a request, an order and a crash that come together do
not race. Requests wait in `hot()`, up to their deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from functions.contract import Parameters
from functions.engine import EmbedRequest, EngineError, EngineInfo, GenerateRequest
from functions.engines.vllm import client, options
from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.processes import EngineProcess, EngineStartError, Template, TemplateError
from functions.lifecycle import State, Warmth
from functions.replica import Replica
from functions.settings import Settings
from functions.stage import RequestContext, StartError
from functions.timing import Phase

log = logging.getLogger(__name__)

Fetch = Callable[[], Awaitable[Path]]
"""Brings the model's files here and returns their folder. Raises StartError with the cause."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When to give up, in seconds."""

    crashes: int = 3
    """Deaths of the engine, each within `crash_window` of the one before, that make the replica FAILED."""
    crash_window: float = 60.0
    idle: float | None = None
    """Without a request for so long, a hot replica goes back to its resting rung; None for never."""


class Ladder:
    """Owner of the template process and of the engine of one replica.

    Args:
        settings: model, options, resting rung.
        fetch: brings the model here; runs beside the import.
        patience: when to give up.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        fetch: Fetch,
        patience: Patience | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._fetch = fetch
        self._patience = patience or Patience()
        self._clock = clock
        self._replica: Replica | None = None
        self._template: Template | None = None
        self._process: EngineProcess | None = None
        self._engine: VllmEngine | None = None
        self._model: Path | None = None
        self._version: str | None = None
        self._device = ""
        self._climbing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._in_use = 0
        self._crashes: list[float] = []
        self._closed = False

    @property
    def engine(self) -> VllmEngine | None:
        """The engine, if it is hot now."""
        return self._engine

    @property
    def process(self) -> EngineProcess | None:
        """The engine's processes, if there are any."""
        return self._process

    @property
    def template(self) -> Template | None:
        """The template process, once it was started."""
        return self._template

    async def start(self, replica: Replica) -> None:
        """From nothing to the resting rung.

        Raises:
            StartError: with the cause.
        """
        self._replica = replica
        if self._settings.warmth is not Warmth.STANDBY:
            replica.to(State.LOADING)
        try:
            # Refused before anything large is touched.
            options.command_line(self._settings.engine_args, model=Path("model"), name="model")
        except ValueError as error:
            raise StartError(f"PILOTLIGHT_ENGINE_ARGS: {error}") from None
        await self._prepare(replica)
        if self._settings.warmth is Warmth.STANDBY:
            replica.to(State.STANDBY)
            return
        await self._load(replica)

    @contextlib.asynccontextmanager
    async def hot(self, context: RequestContext) -> AsyncIterator[VllmEngine]:
        """The engine for one request; the replica stays hot while it is in use.

        Raises:
            EngineError: it cannot be had before the request's deadline; retryable.
        """
        self._in_use += 1
        try:
            engine = self._engine
            if engine is None or self._process is None or not self._process.alive:
                engine = await self._wait_for_engine(context)
            yield engine
        finally:
            self._in_use -= 1

    async def close(self) -> None:
        """End everything. May be called twice."""
        self._closed = True
        for task in (self._watching, self._climbing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self._unload(gently=True)
        if self._template is not None:
            await self._template.close()
            self._template = None

    async def _prepare(self, replica: Replica) -> None:
        """Fetch and import side by side; the first failure ends both."""

        async def fetch() -> None:
            with replica.measure(Phase.WEIGHTS):
                self._model = await self._fetch()
            assert self._template is not None
            self._template.import_model(self._model)

        async def importing() -> None:
            assert self._template is not None
            imported = await self._template.imported()
            replica.record(Phase.IMPORT, imported.seconds)
            self._version, self._device = imported.version, imported.device
            if self._settings.warmth is Warmth.ASLEEP and imported.device == "cpu":
                raise StartError(
                    "PILOTLIGHT_WARMTH = asleep: vLLM has no sleep mode on CPUs; must be hot or standby here"
                )

        try:
            self._template = await Template.start()
            async with asyncio.TaskGroup() as group:
                group.create_task(fetch())
                group.create_task(importing())
        except TemplateError as error:
            raise StartError(str(error)) from None
        except BaseExceptionGroup as errors:
            first = errors.exceptions[0]
            if isinstance(first, TemplateError):
                raise StartError(str(first)) from None
            raise first from None

    async def _load(self, replica: Replica) -> None:
        """Fork an engine and make it answer; ends HOT.

        Raises:
            StartError: it did not come up.
        """
        assert self._template is not None
        assert self._model is not None
        name = self._settings.model_name or self._model.name
        args = {
            **options.defaults(self._settings.engine_args, self._model, self._device),
            **self._settings.engine_args,
        }
        argv = options.command_line(args, model=self._model, name=name)
        began = self._clock()
        process = self._process = self._template.fork(argv)
        try:
            await process.wait_serving()
        except EngineStartError as error:
            raise StartError(str(error)) from None
        replica.record(Phase.WEIGHTS, process.load_seconds)
        replica.record(Phase.INIT, max(0.0, self._clock() - began - process.load_seconds))
        info = EngineInfo("vllm", self._version, name)
        engine = VllmEngine(client.open_session(process.socket), info, process.dead)
        try:
            with replica.measure(Phase.WARMUP):
                engine = await self._warm_up(engine)
        except (EngineError, aiohttp.ClientError) as error:
            await engine.close()
            cause = process.cause if not process.alive else str(error)
            raise StartError(f"the engine answers no request: {cause}") from None
        self._engine = engine
        self._watching = asyncio.create_task(self._watch(process))
        replica.to(State.HOT)

    async def _warm_up(self, engine: VllmEngine) -> VllmEngine:
        """One real token through the whole engine; returns the engine with what it says about the model."""
        async with engine.session.get(client.BASE + "/v1/models") as response:
            card = (await response.json())["data"][0]
        info = EngineInfo("vllm", self._version, engine.info.model, card.get("max_model_len"))
        engine = VllmEngine(engine.session, info, engine.dead)
        request = GenerateRequest("warmup", "0", Parameters(max_tokens=1, temperature=0.0))
        try:
            async for _ in engine.generate(request):
                pass
        except EngineError as error:
            if error.status != 404:
                raise
            # vLLM offers this path only for models that generate.
            await engine.embed(EmbedRequest("warmup", ("0",)))
        return engine

    async def _wait_for_engine(self, context: RequestContext) -> VllmEngine:
        replica = self._replica
        if replica is None or self._closed:
            raise EngineError("the replica has not begun to start", retryable=True, retry_after=1.0)
        if replica.state in {State.STANDBY, State.ASLEEP}:
            self._go(self._rise)
        began = self._clock()
        try:
            async with asyncio.timeout(context.remaining()):
                state = await replica.wait_for(State.HOT)
        except TimeoutError:
            raise EngineError(
                "the model was not hot before the deadline", retryable=True, status=503, retry_after=1.0
            ) from None
        if state is not State.HOT or self._engine is None:
            cause = replica.lifecycle.cause or f"the replica is {state}"
            raise EngineError(f"the model cannot answer: {cause}", retryable=True, retry_after=1.0)
        # Whoever waited paid for this cold start, and nobody after.
        claimed = replica.claim_cold_start()
        context.paid(claimed or replica.climb)
        context.record("held", self._clock() - began)
        return self._engine

    def _go(self, move: Callable[[Replica], Awaitable[None]]) -> None:
        """Begin a move unless one is under way."""
        if self._closed or (self._climbing is not None and not self._climbing.done()):
            return
        self._climbing = asyncio.create_task(self._move(move))

    async def _move(self, move: Callable[[Replica], Awaitable[None]]) -> None:
        assert self._replica is not None
        try:
            await move(self._replica)
        except StartError as error:
            self._replica.fail(str(error))

    async def _rise(self, replica: Replica) -> None:
        replica.to(State.LOADING)
        await self._load(replica)

    async def _watch(self, process: EngineProcess) -> None:
        """Wait for the engine's death and answer it with another engine."""
        cause = await asyncio.shield(process.dead)
        replica = self._replica
        if self._closed or replica is None or process is not self._process:
            return
        log.error("engine died", extra={"cause": cause, "in_flight": self._in_use})
        now = self._clock()
        self._crashes = [at for at in self._crashes if now - at < self._patience.crash_window] + [now]
        await self._unload(gently=False)
        if replica.state is not State.HOT:
            return
        if len(self._crashes) >= self._patience.crashes:
            replica.fail(
                f"the engine died {len(self._crashes)} times in {self._patience.crash_window:.0f} s: "
                f"{process.cause}"
            )
            return
        self._go(self._rise)

    async def _unload(self, *, gently: bool) -> None:
        engine, self._engine = self._engine, None
        process, self._process = self._process, None
        if engine is not None:
            await engine.close()
        if process is not None:
            if gently:
                await process.stop()
            else:
                process.kill()
                await asyncio.wait({process.gone}, timeout=10)
