"""The first stage of a chain: runs a request through the other stages, whole or as a stream.

A whole request is a fold over the chain. For a stream the stages up to the model are called whole and the
model's events are streamed; each stage behind the model takes the stream segment by segment (postprocess), or
the whole text at its end. While one segment is under way the text of the next one collects, so the number of
posts follows the speed of the network, not the number of tokens.

When a request arrives, all stages behind the first are woken at once, so that cold ones start side by side.
"""

import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

from prometheus_client import Counter, Histogram
from pydantic import Field, JsonValue

from functions.auth.authenticator import stage_token_of
from functions.calls.client import ObserveCall, StageClient, open_session
from functions.calls.failures import Outcome
from functions.calls.retries import CallPolicy
from functions.calls.streaming import Events, at_the_end, by_segments, from_model, next_request
from functions.chat_api.routes import chat_router
from functions.contract import (
    Delta,
    Final,
    FinishReason,
    Input,
    StageReply,
    StageRequest,
    StageTiming,
    Usage,
)
from functions.http.answer_format import ContractFormat
from functions.http.invocation import Invocation
from functions.idempotency import AnswerStore, parse_key
from functions.lifecycle import Lifecycle, State
from functions.metrics import REQUEST_BUCKETS
from functions.orchestration.runs.config import RunsConfig
from functions.orchestration.runs.durable_runs import DurableRuns, database_url
from functions.orchestration.runs.durable_steps import DurableSteps
from functions.orchestration.steps import PlainSteps, Steps
from functions.problems import ProblemError
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings, SettingsError
from functions.stage import RequestContext, StageRoutes, StageRuntime, parse_config
from functions.timing import Phase
from knative import env_vars

if TYPE_CHECKING:
    import aiohttp


class OrchestrateConfig(CallPolicy):
    """`PILOTLIGHT_STAGE_CONFIG` of an orchestrate stage: retries of each stage, deadlines, waking."""

    retries: Annotated[int, Field(ge=0, le=100)] = 6
    """Retries for one request at most, by all stages and the proxies before them together."""
    deadline_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Deadline of a request that brings none: how long a cold chain is waited for."""
    segment_seconds: Annotated[float, Field(ge=0)] = 0.02
    """Least seconds from one segment of a stream to the next: fewer posts, and text that much later."""
    wake: bool = True
    """Wake all later stages when a request arrives."""
    idempotency_seconds: Annotated[float, Field(ge=0, le=7 * 86_400)] = 3600.0
    """For how long the answer to a whole request with `Idempotency-Key` is given again; 0: never."""
    idempotency_megabytes: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Of the answers that are kept, in memory and in the cache folder each."""
    runs: RunsConfig | None = None
    """Durable runs; without it a request lives and ends with its replica."""
    wake_idle_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Seconds after its last answer for which a stage counts as awake."""


@dataclass(frozen=True, slots=True)
class _Progress:
    """The result of the stages called so far."""

    value: Input
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    timings: tuple[StageTiming, ...] = ()
    data: dict[str, JsonValue] = field(default_factory=dict)

    def after(self, name: str, reply: StageReply) -> "_Progress":
        """With the reply of one more stage; values that it does not give stay."""
        usage = self.usage.model_copy(update=reply.usage.model_dump(exclude_none=True))
        data = self.data if reply.data is None else {**self.data, name: reply.data}
        return replace(
            self,
            value=reply.output,
            finish_reason=reply.finish_reason or self.finish_reason,
            usage=usage,
            timings=(*self.timings, *reply.timings),
            data=data,
        )


class Orchestrate:
    """The stage."""

    kind = "orchestrate"

    def __init__(
        self, settings: FunctionSettings, config: OrchestrateConfig, *, runs_url: str | None = None
    ) -> None:
        self.name = settings.stage_name or self.kind
        self._settings = settings
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._chain: tuple[StageClient, ...] = ()
        self._answers = AnswerStore(
            settings.cache_dir / "answers" / (settings.service or self.name),
            keep_s=config.idempotency_seconds,
            max_bytes=config.idempotency_megabytes * 1_000_000,
        )
        self._runs: DurableRuns | None = None
        if config.runs is not None and runs_url is not None:
            self._runs = DurableRuns(config.runs, runs_url, self._durable, ReplyCodec(), stage=self.name)
        self._observe: ObserveCall = lambda _target, _outcome, _seconds: None

    async def start(self, replica: ReplicaTracker) -> None:
        """Open the session. No stage is called, so a cold one may stay cold."""
        replica.record(Phase.IMPORT, replica.age)
        self._session = open_session()
        token = stage_token_of(self._settings)
        policy = CallPolicy(**self._config.model_dump(include=set(CallPolicy.model_fields)))
        self._chain = tuple(
            StageClient(
                self._session,
                address,
                gateway=self._settings.gateway,
                policy=policy,
                observe=self._observe,
                stage_token=token,
            )
            for address in self._settings.stages
            if address.kind != self.kind
        )
        if self._runs is not None:
            self._runs.start()
            replica.on_change(self._on_change)
        replica.to(State.HOT)

    async def invoke(self, request: StageRequest, context: RequestContext) -> StageReply | Events:
        """Run the chain. The reply's `data` has each stage's under its name; `timings` has one per stage."""
        if request.segment is not None:
            raise ProblemError(422, "segment: an orchestrate stage takes whole requests; must be left out")
        key = parse_key(context.idempotency_key)
        if key is None or request.stream or not self._config.idempotency_seconds:
            return await self._work(request, context)
        return await self._answer_once(key, request, context)

    async def _answer_once(self, key: str, request: StageRequest, context: RequestContext) -> StageReply:
        """The kept answer to this caller's request, or a new one, which is kept."""

        async def work() -> str:
            reply = await self._work(request, context)
            if not isinstance(reply, StageReply):
                raise TypeError("a whole request has a whole reply")
            return reply.model_dump_json()

        content = request.model_dump_json(exclude={"id"})
        fingerprint = hashlib.sha256(content.encode()).hexdigest()
        caller = context.caller
        body, kept = await self._answers.answer(f"{caller.kind}\n{caller.name}\n{key}", fingerprint, work)
        if kept:
            context.record("replayed", 0.0)
        return StageReply.model_validate_json(body)

    async def _work(self, request: StageRequest, context: RequestContext) -> StageReply | Events:
        context.default_deadline(self._config.deadline_seconds)
        context.limit_retries(self._config.retries)
        self._wake(context)
        if request.stream:
            return self._stream(request, context)
        progress = await self._fold(self._chain, _Progress(request.input), request, context)
        return self._reply(request, progress)

    async def _durable(
        self, request: StageRequest, context: RequestContext, steps: DurableSteps
    ) -> StageReply:
        """The reply to a durable run, by way of its recorded steps."""
        context.limit_retries(self._config.retries)
        self._wake(context)
        progress = await self._fold(self._chain, _Progress(request.input), request, context, steps)
        return self._reply(request, progress)

    def _on_change(self, lifecycle: Lifecycle) -> None:
        if lifecycle.state is State.DRAINING and self._runs is not None:
            self._runs.drain()

    def _wake(self, context: RequestContext) -> None:
        if self._config.wake:
            for client in self._chain[1:]:
                client.wake(
                    context.headers(),
                    idle_seconds=self._config.wake_idle_seconds,
                    patience_seconds=self._config.deadline_seconds,
                )

    async def close(self) -> None:
        """End the background calls and the connections; give durable runs back."""
        if self._runs is not None:
            await self._runs.close()
        for client in self._chain:
            await client.close()
        if self._session is not None:
            await self._session.close()

    def routes(self, runtime: StageRuntime) -> StageRoutes:
        """OpenAI's chat API, and durable runs where there are any; registers the metrics of stage calls."""
        registry = runtime.metrics.registry
        calls = Counter(
            "pilotlight_stage_calls",
            "Attempts to call a stage, by how they ended.",
            ("target", "outcome"),
            registry=registry,
        )
        seconds = Histogram(
            "pilotlight_stage_call_seconds",
            "Seconds of an attempt up to the response's head.",
            ("target",),
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )

        def observe(target: str, outcome: Outcome, took: float) -> None:
            calls.labels(target=target, outcome=outcome).inc()
            seconds.labels(target=target).observe(took)

        self._observe = observe
        metrics = runtime.metrics
        # A client may call the agent by its own name, or by that of the stage that it talks to.
        names = tuple(dict.fromkeys(filter(None, (self._settings.agent, self.name))))
        chat = chat_router(self, metrics, names)
        if self._runs is None:
            return StageRoutes(router=chat)
        contract = ContractFormat(accepts_empty_input=False)
        runs = self._runs.routes(lambda context: Invocation(self, metrics, context, contract))
        if runs.router is not None:
            chat.include_router(runs.router)
        return replace(runs, router=chat)

    async def _fold(
        self,
        chain: Sequence[StageClient],
        progress: _Progress,
        request: StageRequest,
        context: RequestContext,
        steps: Steps | None = None,
    ) -> _Progress:
        recorded = steps or PlainSteps()
        for client in chain:
            following = next_request(request, progress.value)

            async def call(
                key: str, client: StageClient = client, following: StageRequest = following
            ) -> StageReply:
                called = await client.call(following, context, idempotency_key=key or None)
                context.record(client.name, called.timing.seconds)
                return called.reply

            progress = progress.after(client.name, await recorded.run(client.name, call))
        return progress

    async def _stream(self, request: StageRequest, context: RequestContext) -> Events:
        model = next((i for i, client in enumerate(self._chain) if client.kind == "generate"), None)
        if model is None:
            progress = await self._fold(self._chain, _Progress(request.input), request, context)
            reply = self._reply(request, progress)
            yield Delta(reply.text)
            yield Final(reply)
            return
        progress = await self._fold(self._chain[:model], _Progress(request.input), request, context)
        source, *filters = self._chain[model:]
        unfinished: list[StageTiming] = []
        events = from_model(source, next_request(request, progress.value, stream=True), context, unfinished)
        for client in filters:
            if client.kind == "postprocess":
                pause = self._config.segment_seconds
                events = by_segments(client, events, request, context, pause=pause)
            else:
                events = at_the_end(client, events, request, context)
        async with aclosing(events) as stream:
            async for event in stream:
                if isinstance(event, Final):
                    progress = replace(progress, timings=(*progress.timings, *unfinished))
                    yield Final(self._reply(request, self._joined(progress, event.reply)))
                    return
                yield event

    def _joined(self, before: _Progress, streamed: StageReply) -> _Progress:
        """The stages before the stream, and those of the stream, whose data has their names already."""
        joined = before.after("", streamed.model_copy(update={"data": None}))
        data = streamed.data if isinstance(streamed.data, dict) else {}
        return replace(joined, data={**joined.data, **data})

    def _reply(self, request: StageRequest, progress: _Progress) -> StageReply:
        return StageReply(
            id=request.id,
            stage=self.name,
            output=progress.value,
            data=progress.data,
            finish_reason=progress.finish_reason,
            usage=progress.usage,
            timings=progress.timings,
            metadata=request.metadata,
        )


class ReplyCodec:
    """Replies of stages as recorded results."""

    def dump(self, result: StageReply) -> str:
        """As JSON."""
        return result.model_dump_json(exclude_none=True)

    def load(self, text: str) -> StageReply:
        """From JSON."""
        return StageReply.model_validate_json(text)

    def usage(self, result: StageReply) -> dict[str, int]:
        """Tokens by kind."""
        return result.usage.model_dump(exclude_none=True)


def build(settings: FunctionSettings) -> Orchestrate:
    """The stage of these settings.

    Raises:
        SettingsError: a bad stage config, or no stages to call.
    """
    if not any(stage.kind != Orchestrate.kind for stage in settings.stages):
        shape = 'a JSON list of {"name", "kind", "url"} with a stage to call'
        raise SettingsError((f"{env_vars.STAGES} = unset, must be {shape}",))
    config = parse_config(OrchestrateConfig, settings)
    runs_url = None if config.runs is None else database_url(config.runs, settings)
    return Orchestrate(settings, config, runs_url=runs_url)
