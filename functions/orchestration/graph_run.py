"""One request on its way through a graph."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from typing import Any

from functions.calls.streaming import Events, next_request
from functions.contract import Delta, Final, Input, StageReply, StageRequest, StageTiming
from functions.graph import progress
from functions.graph.conditions import Condition, ExpressionError, truth
from functions.graph.graph import Graph
from functions.graph.nodes import MAX_MAP_ITEMS, GraphNode
from functions.graph.progress import Ended, Outcome
from functions.orchestration.answers import Answer, as_input, joined, of_items, variables
from functions.orchestration.expressions import Expressions
from functions.orchestration.nodes import Node, StageNode
from functions.orchestration.steps import PlainSteps, Steps
from functions.orchestration.time_limit import too_slow, within
from functions.problems import ProblemError
from functions.stage import RequestContext


class GraphRun:
    """One request.

    Args:
        graph: of the agent.
        nodes: by name, those outside the graph (fallbacks) too.
        request: of the client.
        context: of the request.
        steps: records the calls.
        wake: whether nodes are woken ahead.
        expressions: works them out; of the replica.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Mapping[str, Node],
        request: StageRequest,
        context: RequestContext,
        steps: Steps | None = None,
        *,
        wake: bool = True,
        expressions: Expressions,
    ) -> None:
        self._graph = graph
        self._nodes = nodes
        self._request = request
        self._context = context
        self._steps = steps or PlainSteps()
        self._wakes = wake
        self._expressions = expressions
        self._progress: dict[str, Ended] = {}
        self._replies: dict[str, StageReply] = {}
        self._mapped = frozenset(node.name for node in graph.nodes if node.options.map is not None)

    async def whole(self) -> Answer:
        """The answer, once every node is done with.

        Raises:
            ProblemError: of the first node that failed, after the others were ended.
        """
        await self._advance(stream=False)
        return self._answer()

    async def streamed(self) -> Events:
        """The answer as events; `Final` has the reply of the last node, put together with those before it."""
        line = await self._advance(stream=True)
        if line is None:
            reply = self._reply(self._answer())
            if reply.text:
                yield Delta(reply.text)
            yield Final(reply)
            return
        source, *behind = line
        node = self._nodes[source]
        value = await self._input(self._graph.by_name[source])
        unfinished: list[StageTiming] = []
        events = node.stream(next_request(self._request, value, stream=True), self._context, unfinished)
        if (seconds := self._graph.by_name[source].options.call_seconds) is not None:
            events = within(events, source, seconds)
        for name in behind:
            following = self._nodes[name]
            assert isinstance(following, StageNode)
            events = following.through(events, self._request, self._context)
        async with aclosing(events) as stream:
            async for event in stream:
                if isinstance(event, Final):
                    before = self._answer()
                    before = replace(before, timings=(*before.timings, *unfinished))
                    yield Final(self._reply(_with_stream(before, event.reply)))
                    return
                yield event

    async def _advance(self, *, stream: bool) -> tuple[str, ...] | None:
        """Let all nodes run; stop early before those whose output can be streamed."""
        running: dict[asyncio.Task[StageReply], str] = {}
        try:
            while True:
                candidates = await self._candidates(frozenset(running.values()))
                if stream and not running and len(candidates) == 1:
                    line = progress.tail(self._graph, self._progress, candidates[0])
                    if line is not None:
                        self._wake_ahead(frozenset({candidates[0]}))
                        return line
                for name in candidates:
                    running[asyncio.create_task(self._run(self._graph.by_name[name]))] = name
                self._wake_ahead(frozenset(running.values()))
                if not running:
                    return None
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    name = running[task]
                    self._replies[name] = task.result()
                    del running[task]
                    self._progress[name] = Ended(Outcome.RAN, await self._chosen(name))
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def _candidates(self, begun: frozenset[str]) -> tuple[str, ...]:
        """The nodes that are to run now; those that will not are done with."""
        while True:
            waiting = progress.ready(self._graph, self._progress, begun)
            if not any([await self._is_over(name) for name in waiting]):
                return waiting

    async def _is_over(self, name: str) -> bool:
        """Whether a node that waits for nothing is not to run; then it is done with."""
        options = self._graph.by_name[name].options
        if not progress.is_taken(self._graph, self._progress, name):
            self._progress[name] = Ended(Outcome.SKIPPED)
            return True
        if options.when is None or await self._value(name, "when"):
            return False
        self._progress[name] = Ended(Outcome.PASSED if options.otherwise == "pass" else Outcome.SKIPPED)
        return True

    async def _run(self, node: GraphNode) -> StageReply:
        if node.options.map is not None:
            return await self._run_items(node, node.options.map.concurrency)
        return await self._call(node, await self._input(node), node.name)

    async def _run_items(self, node: GraphNode, concurrency: int) -> StageReply:
        items = await self._value(node.name, "map.items")
        if not isinstance(items, list):
            raise _failed(node.name, f"map.items gives {type(items).__name__}, must give a list")
        if len(items) > MAX_MAP_ITEMS:
            raise _failed(node.name, f"map.items gives {len(items)} items, must give at most {MAX_MAP_ITEMS}")
        began = self._context.now()
        slots = asyncio.Semaphore(concurrency)

        async def one(at: int, item: Any) -> StageReply:
            async with slots:
                return await self._call(node, _as_input(node.name, item, "map.items"), f"{node.name}/{at}")

        calls = [asyncio.create_task(one(at, item)) for at, item in enumerate(items)]
        try:
            # Not a group: the first failure is to be the node's own error, not one of a group.
            replies = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
            if calls:
                await asyncio.wait(calls)
        return of_items(node.name, self._request.id, replies, seconds=self._context.now() - began)

    async def _call(self, node: GraphNode, value: Input, step: str) -> StageReply:
        options = node.options
        request = next_request(self._request, value)
        try:
            async with asyncio.timeout(options.call_seconds) as limit:
                return await self._nodes[node.name].run(request, self._context, self._steps, step)
        except TimeoutError:
            if not limit.expired():
                raise
            problem = too_slow(node.name, options.call_seconds or 0.0)
            return await self._instead(node, request, step, problem)
        except ProblemError as error:
            return await self._instead(node, request, step, error)

    async def _instead(
        self, node: GraphNode, request: StageRequest, step: str, error: ProblemError
    ) -> StageReply:
        """The reply of what stands in for a node that failed.

        Raises:
            ProblemError: nothing does.
        """
        fallback = node.options.fallback
        if fallback is None:
            raise error from None
        reply = (
            StageReply(id=request.id, stage=node.name, output=fallback.text or "")
            if fallback.stage is None
            else await self._nodes[fallback.stage].run(
                request, self._context, self._steps, f"{step}/{fallback.stage}"
            )
        )
        data = {"fallback": fallback.stage or "text", "because": error.problem.detail, "data": reply.data}
        return reply.model_copy(update={"data": data})

    async def _input(self, node: GraphNode) -> Input:
        if node.options.input is not None:
            return _as_input(node.name, await self._value(node.name, "input"), node.options.input)
        before = progress.sources(self._graph, self._progress, node.name)
        return joined([self._replies[name] for name in before]) if before else self._request.input

    async def _chosen(self, name: str) -> frozenset[str] | None:
        switch = self._graph.by_name[name].options.switch
        if switch is None:
            return None
        key = None
        if switch.key is not None:
            value = await self._value(name, "switch.key")
            key = value if isinstance(value, str) else str(value).lower()  # true and false as in YAML
        return progress.choose(switch, key=key, request_id=self._request.id, name=name)

    async def _value(self, name: str, field: str) -> Any:
        """The value of an expression; `when` gives true or false.

        Raises:
            ProblemError: it has none.
        """
        condition = self._graph.conditions[name][field]
        given = variables(self._request, self._replies, self._graph.by_name, self._mapped)
        try:
            value = await self._expressions.value(condition, given, characters=self._characters(condition))
            return truth(condition.source, value) if field == "when" else value
        except ExpressionError as error:
            raise _failed(name, f"{field}: {error}") from None

    def _characters(self, condition: Condition) -> int:
        read = (self._replies[name] for name in condition.stages if name in self._replies)
        return self._request_characters + sum(len(reply.model_dump_json()) for reply in read)

    @cached_property
    def _request_characters(self) -> int:
        return len(self._request.model_dump_json())

    def _wake_ahead(self, begun: frozenset[str]) -> None:
        if self._wakes:
            for name in progress.certain(self._graph, self._progress):
                if name not in begun:
                    self._nodes[name].wake(self._context)

    def _answer(self) -> Answer:
        answer = Answer(self._request.input)
        for node in self._graph.nodes:
            if node.name in self._replies:
                answer = answer.after(node.name, self._replies[node.name])
        if len(self._progress) < len(self._graph.nodes):
            return answer
        ended = progress.results(self._graph, self._progress)
        value = joined([self._replies[name] for name in ended]) if ended else self._request.input
        return replace(answer, value=value)

    def _reply(self, answer: Answer) -> StageReply:
        """The answer as a reply, for the end of a stream."""
        return StageReply(
            id=self._request.id,
            stage="",
            output=answer.value,
            data=answer.data,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            timings=answer.timings,
        )


def _with_stream(before: Answer, streamed: StageReply) -> Answer:
    """The nodes before the stream, and those of the stream, whose data has their names already."""
    answer = before.after("", streamed)
    data = streamed.data if isinstance(streamed.data, dict) else {}
    return replace(answer, data={**answer.data, **data})


def _as_input(name: str, value: Any, source: str) -> Input:
    try:
        return as_input(value, source)
    except ExpressionError as error:
        raise _failed(name, str(error)) from None


def _failed(name: str, detail: str) -> ProblemError:
    """An expression of the agent file that does not fit this request: no retry helps."""
    return ProblemError(500, detail, title="Expression failed", stage=name, retryable=False)
