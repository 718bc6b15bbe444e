"""A replay from its first arm to its last: pools, requests, accounts, and the file of results.

Each arm runs from zero to zero: its pool is put in force and has taken effect before the first request is
due, and the arm is charged until its last replica is gone. However the replay ends, the pools are as they
were before it.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final

from knative.client.cluster import Cluster
from knative.client.resources import SERVICE
from pilotlight import invoke
from pilotlight.replay.arms import ReplayArm, default_arms, select
from pilotlight.replay.checks import check_files, check_reachable
from pilotlight.replay.errors import ReplayError
from pilotlight.replay.exchange import Answer, Prompts
from pilotlight.replay.pools import PoolControl, Targets
from pilotlight.replay.replicas import PlatformAccounts, ReplicaWatch, difference, watching
from pilotlight.replay.sender import Sender, Sent
from pilotlight.replay.values import Platform, ReplayPlan, ReplayProgress, ResultsFile
from warmpool.experiments.replay_results import (
    ArmRecord,
    GpuSeconds,
    ReplayHeader,
    RequestRecord,
)
from warmpool.reconcile.parsing import parse_service

AS_IT_IS: Final = "as it is"
TAKE_UP_S: Final = 60.0
ZERO_S: Final = 600.0
HOT_S: Final = 1800.0
_LEAD_S: Final = 0.25
"""From the moment at which everything stands to the first request, so that the first is not late."""
_HELD_S: Final = 0.05
"""A request that the activator held for less had a replica at once."""


class Replay:
    """Runs a plan.

    Args:
        plan: what is sent.
        platform: None: only the URL is known, the pools are left alone, and nobody counts GPU-seconds.
        results: gets every record.
        progress: what is shown.
    """

    def __init__(
        self,
        plan: ReplayPlan,
        platform: Platform | None,
        results: ResultsFile,
        progress: ReplayProgress,
    ) -> None:
        self._plan = plan
        self._exchange = plan.exchange
        if platform is not None and plan.exchange.stage is None:
            self._exchange = replace(plan.exchange, stage=platform.targets.stage)
        self._platform = platform
        self._results = results
        self._progress = progress
        self._accounts = PlatformAccounts(platform.kubeconfig if platform else None)
        self._gpus = 1
        self._watch: ReplicaWatch | None = None
        self._pools: PoolControl | None = None

    async def run(self, stop: asyncio.Event) -> bool:
        """Run every arm; whether all were finished. What was measured is in the file at every instant.

        Raises:
            ReplayError: it cannot go on.
            ClusterError: the Kubernetes API refuses something.
        """
        check_files(self._plan.max_in_flight)
        await check_reachable(self._plan.exchange.url)
        async with AsyncExitStack() as exits:
            header = await self._header()
            arms = self._plan.arms if self._platform is not None else ()
            if self._platform is not None:
                targets = self._platform.targets
                self._watch = await exits.enter_async_context(
                    watching(self._platform.cluster, targets.namespace, targets.services)
                )
                if arms is None or arms:
                    keep = self._results.path.with_suffix(".pools.yaml")
                    self._pools = PoolControl(self._platform.cluster, targets, keep)
                    await self._pools.remember()
                    exits.push_async_callback(self._pools.restore)
                    arms = select(
                        default_arms(self._pools.own_spec) if arms is None else arms, self._plan.only
                    )
            self._results.write(header)
            self._progress.begun = True
            for arm in arms or self._plan.arms or (ReplayArm(AS_IT_IS, {}),):
                if not await self._arm(arm, stop):
                    return False
        return True

    async def _header(self) -> ReplayHeader:
        plan, known = self._plan, self._platform
        concurrency = 0
        annotations: dict[str, str] = {}
        if known is not None:
            targets = known.targets
            concurrency, annotations, self._gpus = await _revision(known.cluster, targets)
        return ReplayHeader(
            url=plan.exchange.url,
            service=None if known is None else f"{known.targets.namespace}/{known.targets.service}",
            trace=plan.trace,
            speed=plan.speed,
            requests=len(plan.requests),
            started=datetime.now(UTC),
            container_concurrency=concurrency,
            autoscaling=annotations,
            gpus=max(1, self._gpus),
        )

    async def _arm(self, arm: ReplayArm, stop: asyncio.Event) -> bool:
        if self._pools is not None and not await self._stoppable(self._to_zero(arm.name), stop):
            return False
        began, at = datetime.now(UTC), perf_counter()
        before = await self._read_accounts()
        floor = None
        if self._pools is not None and arm.pool is not None:
            raised = asyncio.create_task(self._raise(arm))
            if not await self._stoppable(raised, stop):
                return False
            floor = raised.result()
        origin = perf_counter() + _LEAD_S
        requests = self._plan.requests if arm.requests is None else arm.requests
        sender = Sender(
            self._exchange,
            Prompts(self._plan.seed),
            max_in_flight=arm.max_in_flight or self._plan.max_in_flight,
            on_answer=lambda sent: self._record(
                arm.name, sent, at, origin - at, sender.state.answered / len(requests)
            ),
        )
        self._progress.told(arm.name, "sending", 0.0)
        complete = False
        released = None
        try:
            async with invoke.client() as session:
                complete = await sender.run(session, requests, origin=origin, stop=stop)
            if complete and self._pools is not None:
                released = perf_counter() - at if arm.pool is not None else None
                complete = await self._stoppable(self._to_zero(arm.name), stop)
        finally:
            gpu = await self._gpu_seconds(before, at)
            watch, known = self._watch, self._platform
            starts = watch.starts(known.targets.service, at) if watch is not None and known else ()
            stops = watch.stops(known.targets.service, at) if watch is not None and known else ()
            self._results.write(
                ArmRecord(
                    arm=arm.name,
                    pool=arm.pool,
                    began=began,
                    first_due_s=origin - at,
                    released_s=released,
                    seconds=perf_counter() - at,
                    floor=floor,
                    starts=starts,
                    stops=stops,
                    gpu=gpu,
                    held_back=sender.state.held_back,
                    complete=complete,
                )
            )
        if sender.state.held_back and arm.max_in_flight is None:
            self._progress.warnings.append(
                f"{arm.name}: {sender.state.held_back:,} requests waited because --max-in-flight "
                f"{self._plan.max_in_flight} were on their way; their waiting counts as latency. The "
                "function is slower than the trace: raise the limit, or lower --speed"
            )
        return complete

    async def _stoppable(self, work: Any, stop: asyncio.Event) -> bool:
        """Wait for some work; False if it was stopped before."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return False
            task.result()
            return True
        finally:
            stopping.cancel()

    async def _to_zero(self, arm: str) -> None:
        """Switch the pools off and wait until no replica is left."""
        assert self._pools is not None
        assert self._watch is not None
        watch, services = self._watch, self._pools.targets.services
        self._progress.told(arm, "waiting for zero replicas", -1.0)
        await self._pools.apply(None)
        await self._pools.taken_up(timeout_s=TAKE_UP_S)
        try:
            await watch.until(
                lambda: not any(watch.present(service) for service in services),
                timeout_s=ZERO_S,
                what=f"{', '.join(services)} must scale to zero, did not",
            )
        except TimeoutError as error:
            raise ReplayError(f"{error}; is there a min-scale in its template, or other traffic?") from None

    async def _raise(self, arm: ReplayArm) -> int:
        """Put the arm's pool in force and wait until its floor is hot; the floor of the target."""
        assert self._pools is not None
        assert self._watch is not None
        watch = self._watch
        self._progress.told(arm.name, "the pool raises its floor", -1.0)
        await self._pools.apply(arm.pool)
        floors = await self._pools.taken_up(timeout_s=TAKE_UP_S)
        try:
            await watch.until(
                lambda: all(watch.ready(service) >= floor for service, floor in floors.items()),
                timeout_s=HOT_S,
                what="the floor must be hot, was not",
            )
        except TimeoutError as error:
            raise ReplayError(f"arm {arm.name}: {error}") from None
        floor = floors[self._pools.targets.service]
        if not floor:
            self._progress.warnings.append(f"{arm.name}: its pool holds no replica at this time of day")
        return floor

    async def _read_accounts(self) -> GpuSeconds | None:
        if self._platform is None:
            return None
        targets = self._platform.targets
        return await self._accounts.read(targets.namespace, targets.service)

    async def _gpu_seconds(self, before: GpuSeconds | None, at: float) -> GpuSeconds | None:
        """From the platform where it counts them, else from the pods' lifetimes."""
        if self._platform is None or self._watch is None:
            return None
        counted = difference(await self._read_accounts(), before)
        if counted is not None and self._gpus:
            return counted
        return self._watch.gpu_seconds(self._platform.targets.service, max(1, self._gpus), at)

    def _record(self, arm: str, sent: Sent, at: float, first_due_s: float, done: float) -> None:
        answer = sent.answer
        late = max(0.0, sent.sent_s - sent.planned.due_s)
        self._results.write(
            RequestRecord(
                arm=arm,
                index=sent.planned.index,
                scheduled_s=first_due_s + sent.planned.due_s,
                sent_s=first_due_s + sent.sent_s,
                ttft_s=None if answer.ttft_s is None else answer.ttft_s + late,
                e2e_s=None if answer.e2e_s is None else answer.e2e_s + late,
                itl_s=answer.itl_s,
                cold=self._is_cold(answer, at + first_due_s + sent.sent_s),
                warmth=answer.warmth,
                queue_s=answer.queue_s,
                phases=answer.phases,
                in_flight=sent.in_flight,
                input_tokens=answer.input_tokens,
                output_tokens=answer.output_tokens,
                status=answer.status,
                error=answer.error,
            )
        )
        self._progress.told(arm, "sending", done)

    def _is_cold(self, answer: Answer, sent_at: float) -> bool | None:
        """Whether a request waited for a start, by what the replica says, else by the activator's queue."""
        if answer.error is not None:
            return None
        if answer.warmth is not None:
            return answer.warmth != "hot"
        if answer.queue_s is None:
            return None
        if answer.queue_s < _HELD_S:
            return False
        if self._watch is None or self._platform is None:
            return None
        return self._watch.became_ready(self._platform.targets.service, sent_at + answer.queue_s)


async def _revision(cluster: Cluster, targets: Targets) -> tuple[int, dict[str, str], int]:
    """Container concurrency, annotations and GPUs of the Service's template, where no pool's floor stands."""
    service = await cluster.get(SERVICE, targets.service, targets.namespace)
    found = parse_service(service)
    if found.latest_ready is None:
        raise ReplayError(
            f"Service {targets.namespace}/{targets.service} is not ready; `pilotlight status` says why"
        )
    template = service["spec"]["template"].get("metadata") or {}
    return found.container_concurrency, dict(template.get("annotations") or {}), found.gpus
