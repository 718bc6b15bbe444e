"""Activator and autoscaler together, in real time: from zero up with the load, and back to zero."""

import asyncio
import dataclasses
import time

from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.config import AutoscalerConfig
from knative.autoscaling.scaler import ActiveStatus
from knative.local.controllers.autoscaler import Autoscaler
from knative.local.routing import RevisionKey, RevisionSpec

KEY = RevisionKey("default", "a-00001")


class ReplicaController:
    """Keeps as many replicas ready as the autoscaler says."""

    def __init__(self, gateway, spec, grace_s):
        self.gateway = gateway
        self.autoscaler = Autoscaler(
            time.monotonic,
            self.on_scale,
        )
        gateway.forward_stats = self.autoscaler.record
        self.wanted = asyncio.Event()
        self.replicas = []
        self.history = [0]
        self.spec = dataclasses.replace(
            spec,
            scaling_config=AutoscalerConfig(scale_to_zero_grace_period_s=grace_s, max_scale_down_rate=100.0),
        )

    def on_scale(self, _, decision):
        self.decision = decision
        self.wanted.set()

    async def run(self):
        self.autoscaler.set_revision(self.spec, remembered=0)
        deciding = asyncio.create_task(self.autoscaler.run())
        try:
            while True:
                await self.wanted.wait()
                self.wanted.clear()
                while len(self.replicas) < self.decision.replicas:
                    self.replicas.append(await self.gateway.replica(f"pod-{len(self.replicas)}"))
                del self.replicas[self.decision.replicas :]
                if self.history[-1] != len(self.replicas):
                    self.history.append(len(self.replicas))
                await self.gateway.ready(*self.replicas)
                self.autoscaler.set_pods(KEY, len(self.replicas), len(self.replicas))
        finally:
            deciding.cancel()


async def test_from_zero_up_with_the_load_and_back_to_zero(gateway):
    spec = RevisionSpec(KEY, "a", container_concurrency=2, autoscaling=AutoscalingSpec(window_s=2.0))
    gateway.deploy(container_concurrency=2)
    controller = ReplicaController(gateway, spec, grace_s=1.0)
    running = asyncio.create_task(controller.run())
    try:
        answers = await asyncio.gather(*(gateway.get("/sleep?s=1") for _ in range(12)))
        assert {status for status, _ in answers} == {200}
        assert max(controller.history) >= 4
        assert len({seen["replica"] for _, seen in answers}) >= 4
        async with asyncio.timeout(40):
            while controller.replicas:
                await asyncio.sleep(0.1)
        assert controller.decision.active is ActiveStatus.FALSE
        assert (await gateway.get())[0] == 200  # and from zero again
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_floor_raised_on_an_idle_revision_starts_replicas_at_once(gateway):
    spec = RevisionSpec(KEY, "a")
    gateway.deploy()
    controller = ReplicaController(gateway, spec, grace_s=30.0)
    running = asyncio.create_task(controller.run())
    try:
        await asyncio.sleep(0)
        began = time.monotonic()
        await gateway.until(controller.autoscaler.keys)
        controller.autoscaler.set_revision(RevisionSpec(KEY, "a", autoscaling=AutoscalingSpec(min_scale=2)))
        await gateway.until(lambda: len(controller.replicas) == 2)
        assert time.monotonic() - began < 5
        assert controller.decision.active is ActiveStatus.TRUE
    finally:
        running.cancel()
        await asyncio.wait([running])
