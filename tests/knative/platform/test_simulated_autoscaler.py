"""The simulator's replicas against those of the platform, for the same requests."""

import asyncio
import itertools
import time

import numpy as np
import pytest

from knative.autoscaling.annotations import AutoscalingSpec
from knative.client.resources import CONFIG_MAP, SERVICE
from tests.knative.platform.conftest import LocalCluster, service, until
from warmpool.experiments.cold_start import Constant
from warmpool.experiments.floors import FixedFloor
from warmpool.experiments.simulator import Load, Replica, simulate

SERVICE_S = 3.0
ARRIVALS = np.array([0.0, 0.2, 0.4, 12.0, 45.0])
"""Three to a function at zero, one that finds a replica, and one after it has gone to zero again."""


async def test_replicas_and_cold_starts_are_those_of_the_platform(local: LocalCluster):
    settings = {"metadata": {"name": "config-autoscaler", "namespace": "knative-serving"}}
    await local.cluster.apply(CONFIG_MAP, settings | {"data": {"allow-zero-initial-scale": "true"}})
    scale = {"initial-scale": "0", "window": "10s", "target-utilization-percentage": "100"}
    probe = {"readinessProbe": {"httpGet": {"path": "/ready"}, "periodSeconds": 1}}
    await local.cluster.create(
        SERVICE,
        service("a", scale=scale, env={"READY_AFTER_S": "4"}, container=probe,
                spec={"containerConcurrency": 1}),
    )  # fmt: skip
    await local.ready("a")
    assert await local.pods() == []

    seen: list[tuple[float, int]] = []
    began = time.monotonic()

    async def watch() -> None:
        while True:
            seen.append((time.monotonic() - began, len(await local.pods())))
            await asyncio.sleep(0.1)

    async def call(at: float) -> float:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        sent = time.monotonic()
        status, _ = await local.call("a", f"/slow?={SERVICE_S}")
        assert status == 200
        return time.monotonic() - sent - SERVICE_S

    watching = asyncio.create_task(watch())
    waited = np.array(await asyncio.gather(*map(call, ARRIVALS)))

    async def gone() -> bool:
        return await local.pods() == []

    await until(gone, what="scaled to zero")
    watching.cancel()

    start_s = float(np.median(waited[[0, 1, 2, 4]]))
    spec = AutoscalingSpec(window_s=10.0, target_utilization_percentage=100.0)
    count = len(ARRIVALS)
    load = Load("a", ARRIVALS + 100.0, np.full(count, SERVICE_S), np.full(count, SERVICE_S))
    simulated = simulate(load, Replica(Constant(start_s)), FixedFloor(0), autoscaling=spec)

    assert simulated.cold.tolist() == (waited > start_s / 2).tolist() == [True, True, True, False, True]
    assert simulated.waited_s == pytest.approx(waited, abs=0.5 * start_s)
    steps = simulated.replicas
    assert max(number for _, number in seen) == steps[:, 1:].sum(axis=1).max()
    live_s = sum(number * (after - at) for (at, number), (after, _) in itertools.pairwise(seen))
    replica_s = float((steps[:-1, 1:].sum(axis=1) * np.diff(steps[:, 0])).sum())
    # The phases of their clocks differ: by a tick of two seconds at each change.
    assert replica_s == pytest.approx(live_s, rel=0.25)
