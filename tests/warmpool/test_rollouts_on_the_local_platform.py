"""Rollouts of real processes under real load: a good Revision, bad ones, and what people do meanwhile."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from typer.testing import CliRunner

from knative.client.cluster import Cluster
from knative.client.resources import EVENT, REVISION, SERVICE, WARM_POOL
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform
from pilotlight import rollouts
from pilotlight.cli.rollout import app
from pilotlight.rollouts import RolloutError
from tests.warmpool.rollout_platform import NAME, ROLLOUT, Scenario, controlling, until
from warmpool.reconcile import canary_record

OLD, NEW = f"{NAME}-00001", f"{NAME}-00002"


@pytest.fixture
async def scenario(tmp_path):
    """A Service with a pool of two, whose first Revision is the running one."""
    config = PlatformConfig(state_dir=tmp_path / "state", gateway_port=0, api_port=0, gpus=4)
    async with Platform(config) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
        yield Scenario(platform, cluster)


async def by_hand(scenario, *arguments):
    """`pilotlight rollout ...` as a user's terminal would run it; what it prints."""
    command = [*arguments, f"--kubeconfig={scenario.platform.kubeconfig}"]
    done = await asyncio.to_thread(CliRunner(env={"COLUMNS": "300"}).invoke, app, command)
    if done.exception is not None:
        raise done.exception
    return done.stdout.strip()


async def floors(cluster):
    """Min-scale by Revision."""
    key = "autoscaling.knative.dev/min-scale"
    found = await cluster.list(REVISION, "default")
    return {
        entry["metadata"]["name"]: int(entry["metadata"].get("annotations", {}).get(key, "0"))
        for entry in found
    }


async def test_a_good_revision_is_promoted_and_a_controller_that_ends_goes_on(scenario):
    await scenario.deploy({"V": "1"})
    await scenario.pool()
    async with AsyncExitStack() as first:
        await first.enter_async_context(controlling(scenario.platform, scenario.cluster))
        await scenario.phase("Steady", stable=OLD)
        assert await scenario.traffic() == {OLD: 100}
        async with scenario.load():
            await scenario.deploy({"V": "2"})
            await scenario.phase("Analysing", percent=10)
            await first.aclose()  # the controller ends in the middle of a step, and with it what it counted
            before = await scenario.service()
            async with controlling(scenario.platform, scenario.cluster):
                reached = await scenario.phase("Analysing", percent=50)
                assert reached["stable"] == OLD
                assert canary_record.read(before["metadata"]["annotations"]).percent == 10
                # The sum of the floors is the pool's at every step.
                assert await floors(scenario.cluster) == {OLD: 1, NEW: 1}
                await scenario.phase("Steady", stable=NEW)

                async def moved():
                    return await floors(scenario.cluster) == {OLD: 0, NEW: 2}

                await until(moved)
    assert {status for _, status in scenario.answers} == {200}
    assert await scenario.traffic() == {NEW: 100}


async def test_a_bad_revision_is_rolled_back_with_few_bad_answers(scenario):
    await scenario.deploy({"V": "1"})
    await scenario.pool(rollout={**ROLLOUT, "steps": [5, 100], "margins": {"errors": "5%", "ttft": "off"}})
    async with controlling(scenario.platform, scenario.cluster):
        await scenario.phase("Steady", stable=OLD)
        async with scenario.load(rate=100):
            await scenario.deploy({"V": "2", "ERRORS": "0.2"})
            found = await scenario.phase("RolledBack", canary=NEW)
            assert "errors:" in found["detail"]
            assert await scenario.traffic() == {OLD: 100}

            async def steady_load():
                return len(scenario.answers) >= 1200

            await until(steady_load)
    assert {who for who, _ in scenario.answers[-30:]} == {OLD}
    bad = sum(status == 500 for _, status in scenario.answers)
    assert 0 < bad <= 0.01 * len(scenario.answers)
    events = [entry async for page, _ in scenario.cluster.pages(EVENT, "default") for entry in page]
    assert any(entry["reason"] == "RolloutRolledBack" for entry in events)


async def test_an_edit_by_hand_wins_until_it_is_resumed(scenario):
    await scenario.deploy({"V": "1"})
    await scenario.pool(rollout={**ROLLOUT, "pause": "1h"})
    async with controlling(scenario.platform, scenario.cluster):
        await scenario.phase("Steady", stable=OLD)
        await scenario.deploy({"V": "2"})
        await scenario.phase("Analysing", percent=10)
        edit = [{"revisionName": OLD, "percent": 30}, {"revisionName": NEW, "percent": 70}]
        await scenario.cluster.patch(SERVICE, NAME, "default", {"spec": {"traffic": edit}})
        found = await scenario.phase("Overridden")
        assert f"{OLD} 30 %, {NEW} 70 %" in found["detail"]
        await scenario.deploy({"V": "2", "MORE": "1"})  # GitOps applies the Service again, and a new Revision

        async def third():
            return f"{NAME}-00003" in await floors(scenario.cluster)

        await until(third)
        assert await scenario.traffic() == {OLD: 30, NEW: 70}
        await by_hand(scenario, "pause", NAME)
        assert await by_hand(scenario, "resume", NAME) == f"the rollout of {NEW} goes on"
        assert await by_hand(scenario, "resume", NAME) == f"the rollout of {NEW} goes on"  # after the edit
        await scenario.phase("Analysing", canary=f"{NAME}-00003", percent=10)
        assert await by_hand(scenario, "abort", f"default/{NAME}") == (
            f"{NAME}-00003 loses its traffic; `pilotlight rollout resume` begins again with it"
        )
        await scenario.phase("RolledBack", canary=f"{NAME}-00003")
        assert "aborted by hand" in await by_hand(scenario, "status", NAME)
        assert await by_hand(scenario, "promote", NAME)
        await scenario.phase("Steady", stable=f"{NAME}-00003")
        with pytest.raises(RolloutError, match="there is no new Revision to abort; the rollout is Steady"):
            await by_hand(scenario, "abort", NAME)
        assert "Steady" in await by_hand(scenario, "status")
        # Without its rollout the Service follows its newest Revision again.
        await scenario.cluster.patch(WARM_POOL, "pool", "default", {"spec": {"rollout": None}})

        async def given_back():
            service = await scenario.service()
            return service["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]

        await until(given_back)
        assert canary_record.RECORD not in (await scenario.service())["metadata"]["annotations"]


async def test_a_revision_that_never_becomes_ready_costs_no_request(scenario):
    await scenario.deploy({"V": "1"})

    async def pinned():
        return await rollouts.pin(scenario.cluster, NAME, "default")

    await until(pinned)  # as `pilotlight deploy` does before it applies a Service that gets its rollout
    assert not await pinned()
    assert await scenario.traffic() == {OLD: 100}
    await scenario.pool()
    async with controlling(scenario.platform, scenario.cluster):
        await scenario.phase("Steady", stable=OLD)
        async with scenario.load(rate=20):
            slow = {"serving.knative.dev/progress-deadline": "2s"}
            await scenario.deploy({"V": "2", "NEVER": "1"}, annotations=slow)
            found = await scenario.phase("RolledBack", canary=NEW)
            assert "never became ready" in found["detail"]
    assert set(scenario.answers) == {(OLD, 200)}
