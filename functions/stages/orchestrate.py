"""The first stage of an agent: takes a request through the graph of the other stages, whole or as a stream.

Without a graph the stages stand in one line, and each gets the output of the one before it. Stages that can
run side by side do. Those that are certain to be needed are woken when the request arrives, so that cold ones
start together.

For a stream the nodes up to the last that generates are called whole and its events are streamed; each stage
behind it takes the stream segment by segment (postprocess), or the whole text at its end. While one segment
is under way the text of the next one collects, so the number of posts follows the speed of the network, not
the number of tokens.
"""

import hashlib
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from prometheus_client import Counter, Histogram
from pydantic import Field

from functions.auth.authenticator import stage_token_of
from functions.calls.client import StageClient, open_session
from functions.calls.colocated import ColocatedStage
from functions.calls.failures import Outcome
from functions.calls.port import ObserveCall
from functions.calls.retries import CallPolicy
from functions.calls.streaming import Events
from functions.chat_api.routes import chat_router
from functions.contract import Final, StageReply, StageRequest
from functions.graph.graph import Graph
from functions.graph.settings import graph_of
from functions.http.answer_format import ContractFormat
from functions.http.invocation import Invocation
from functions.idempotency import AnswerStore, parse_key
from functions.lifecycle import Lifecycle, State
from functions.metrics import REQUEST_BUCKETS
from functions.orchestration.answers import Answer
from functions.orchestration.colocation import ColocatedStages
from functions.orchestration.expressions import Expressions
from functions.orchestration.graph_run import GraphRun
from functions.orchestration.nodes import Node, Patience, StageNode
from functions.orchestration.runs.config import RunsConfig
from functions.orchestration.runs.durable_runs import DurableRuns, database_url
from functions.orchestration.runs.durable_steps import DurableSteps
from functions.orchestration.settings import OrchestrationSettings, parse_settings
from functions.orchestration.steps import Steps
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
    """Least seconds from one segment of a stream to the next: fewer posts, and text that much later. A busy
    stage or replica makes it more (`functions.calls.streaming.BUSY_SECONDS`)."""
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


class Orchestrate:
    """The stage."""

    kind = "orchestrate"

    def __init__(
        self,
        settings: FunctionSettings,
        config: OrchestrateConfig,
        graph: Graph,
        *,
        agents: OrchestrationSettings | None = None,
        runs_url: str | None = None,
    ) -> None:
        self.name = settings.stage_name or self.kind
        self._settings = settings
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._graph = graph
        self._agents = agents
        self._nodes: dict[str, Node] = {}
        self._expressions = Expressions()
        self._answers = AnswerStore(
            settings.cache_dir / "answers" / (settings.service or self.name),
            keep_s=config.idempotency_seconds,
            max_bytes=config.idempotency_megabytes * 1_000_000,
        )
        self._runs: DurableRuns | None = None
        if config.runs is not None and runs_url is not None:
            self._runs = DurableRuns(config.runs, runs_url, self._durable, ReplyCodec(), stage=self.name)
        self._observe: ObserveCall = lambda _target, _outcome, _seconds: None
        self._colocated = ColocatedStages(settings)
        self._here: dict[str, ColocatedStage] = {}

    async def start(self, replica: ReplicaTracker) -> None:
        """Open the session, start the stages of this process. Others may stay cold: none is called."""
        replica.record(Phase.IMPORT, replica.age)
        if self._colocated:
            replica.to(State.LOADING)
            await self._colocated.start(replica)
        self._session = open_session()
        self._nodes = self._open_nodes(self._session)
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
        run = self._run(request, context)
        if request.stream:
            return self._stream(request, run)
        return self._reply(request, await run.whole())

    async def _durable(
        self, request: StageRequest, context: RequestContext, steps: DurableSteps
    ) -> StageReply:
        """The reply to a durable run, by way of its recorded steps."""
        context.limit_retries(self._config.retries)
        return self._reply(request, await self._run(request, context, steps).whole())

    def _on_change(self, lifecycle: Lifecycle) -> None:
        if lifecycle.state is State.DRAINING and self._runs is not None:
            self._runs.drain()

    def _run(self, request: StageRequest, context: RequestContext, steps: Steps | None = None) -> GraphRun:
        return GraphRun(
            self._graph,
            self._nodes,
            request,
            context,
            steps,
            wake=self._config.wake,
            expressions=self._expressions,
        )

    def _open_nodes(self, session: "aiohttp.ClientSession") -> dict[str, Node]:
        """The node of each stage."""
        config = self._config
        token = stage_token_of(self._settings)
        policy = CallPolicy(**config.model_dump(include=set(CallPolicy.model_fields)))
        patience = Patience(config.segment_seconds, config.wake_idle_seconds, config.deadline_seconds)
        nodes: dict[str, Node] = {}
        for address in self._settings.stages:
            if address.kind == self.kind:
                continue
            if address.colocated is not None:
                nodes[address.name] = StageNode(self._here[address.name], patience)
                continue
            placed = self._graph.by_name.get(address.name)
            attempts = None if placed is None else placed.options.attempts
            client = StageClient(
                session,
                address,
                gateway=self._settings.gateway,
                policy=policy if attempts is None else policy.model_copy(update={"attempts": attempts}),
                observe=self._observe,
                stage_token=token,
            )
            nodes[address.name] = StageNode(client, patience)
        if self._agents is not None and self._agents.agents:
            # Most agents have no tools, and a start has no time for what they do not need.
            from functions.orchestration.agent_loop.opening import open_agents  # noqa: PLC0415
            from functions.orchestration.tools.http_calls import Caller  # noqa: PLC0415

            caller = Caller(session, self._settings.gateway, policy, self._observe, token)
            nodes |= open_agents(self._agents, nodes, caller)
        return nodes

    async def close(self) -> None:
        """End the background calls and the connections; give durable runs back."""
        if self._runs is not None:
            await self._runs.close()
        for node in self._nodes.values():
            await node.close()
        await self._expressions.close()
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
        self._here = self._colocated.callable(runtime, observe)
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

    async def _stream(self, request: StageRequest, run: GraphRun) -> Events:
        async with aclosing(run.streamed()) as events:
            async for event in events:
                if isinstance(event, Final):
                    update = {"stage": self.name, "metadata": request.metadata}
                    yield Final(event.reply.model_copy(update=update))
                    return
                yield event

    def _reply(self, request: StageRequest, answer: Answer) -> StageReply:
        return StageReply(
            id=request.id,
            stage=self.name,
            output=answer.value,
            data=answer.data,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            timings=answer.timings,
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
        SettingsError: a bad stage config, a bad graph, or no stages to call.
    """
    if not any(stage.kind != Orchestrate.kind for stage in settings.stages):
        shape = 'a JSON list of {"name", "kind", "url" or "colocated"} with a stage to call'
        raise SettingsError((f"{env_vars.STAGES} = unset, must be {shape}",))
    config = parse_config(OrchestrateConfig, settings)
    runs_url = None if config.runs is None else database_url(config.runs, settings)
    kinds = {stage.name: stage.kind for stage in settings.stages}
    try:
        bound = None if settings.graph is None else parse_settings(settings.graph)
        graph = graph_of(kinds if bound is None else bound.kinds(kinds), bound, skipped=(Orchestrate.kind,))
    except ValueError as error:
        raise SettingsError((f"{env_vars.GRAPH}: {error}",)) from None
    return Orchestrate(settings, config, graph, agents=bound, runs_url=runs_url)
