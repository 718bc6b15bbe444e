"""Windows open and close: the floor moves on the Revisions that carry traffic, and nowhere else."""

from datetime import timedelta

import pytest

from knative.client.resources import EVENT, REVISION, SERVICE, WARM_POOL
from tests.warmpool.conftest import MIN, MONDAY, OFFICE, make_controller
from warmpool.reconcile import ownership

OLDER = "autoscaling.knative.dev/minScale"


async def test_an_open_window_is_min_scale_on_the_revision(knative, controller):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"


async def test_the_service_gets_no_new_generation(knative, controller, cluster):
    knative.service("generate")
    before = await cluster.get(SERVICE, "generate", "default")
    await knative.pool()
    await controller.tick()
    assert await cluster.get(SERVICE, "generate", "default") == before


async def test_the_floor_is_removed_without_a_trace_when_the_window_closes(knative, controller, clock):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    clock.at = MONDAY + timedelta(hours=19)
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    assert knative.ownership("generate-00001") == {}


async def test_the_floor_rises_a_lead_time_before_the_window_opens(knative, controller, clock):
    knative.service("generate")
    await knative.pool(leadTime="10m")
    clock.at = MONDAY + timedelta(hours=7, minutes=49, seconds=59)
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    clock.on(timedelta(seconds=1))
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"


async def test_nothing_is_written_when_nothing_changes(knative, controller, clock):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    knative.settle()
    await controller.tick()
    for _ in range(20):
        clock.on(timedelta(seconds=15))
        assert (await controller.tick()).writes == 0


async def test_a_new_controller_changes_nothing_that_is_right(knative, controller, clock, cluster):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    knative.settle()
    await controller.tick()
    fresh = make_controller(cluster, clock=clock)
    assert (await fresh.tick()).writes == 0


async def test_no_annotation_is_written_that_would_replace_the_replicas(knative, controller):
    """Knative copies every annotation that does not begin like this into the pods' template."""
    knative.service("generate")
    await knative.pool(windows=[{**OFFICE, "warmth": "standby"}])
    before = await knative.cluster.get(REVISION, "generate-00001", "default")
    await controller.tick()
    after = await knative.cluster.get(REVISION, "generate-00001", "default")
    added = after["metadata"]["annotations"].keys() - before["metadata"].get("annotations", {}).keys()
    assert added == {MIN, *ownership.ALL}
    assert all(key.startswith("autoscaling.knative.dev") for key in added)


async def test_a_users_higher_min_scale_is_left_alone(knative, controller, clock):
    knative.service("generate", annotations={MIN: "5"})
    await knative.pool()
    await controller.tick()
    assert knative.min_scale("generate-00001") == "5"
    assert knative.ownership("generate-00001") == {}


async def test_a_users_lower_min_scale_is_restored(knative, controller, clock):
    knative.service("generate", annotations={MIN: "1"})
    await knative.pool()
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"
    clock.at = MONDAY + timedelta(hours=20)
    await controller.tick()
    assert knative.min_scale("generate-00001") == "1"
    assert knative.ownership("generate-00001") == {}


async def test_a_higher_min_scale_in_the_older_spelling_is_left_alone_too(knative, controller):
    knative.service("generate", annotations={OLDER: "5"})
    await knative.pool()
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    assert knative.ownership("generate-00001") == {}


async def test_a_lower_min_scale_in_the_older_spelling_applies_again_afterwards(
    knative, controller, clock, cluster
):
    knative.service("generate", annotations={OLDER: "1"})
    await knative.pool()
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"
    clock.at = MONDAY + timedelta(hours=20)
    await controller.tick()
    found = (await cluster.get(REVISION, "generate-00001", "default"))["metadata"]["annotations"]
    assert {key: value for key, value in found.items() if "min" in key} == {OLDER: "1"}


async def test_a_max_scale_in_the_older_spelling_limits_the_floor_too(knative, controller):
    knative.service("generate", annotations={"autoscaling.knative.dev/maxScale": "1"})
    await knative.pool()
    await controller.tick()
    assert knative.min_scale("generate-00001") == "1"


@pytest.mark.parametrize("values", [("7", "7", "7"), ("1", "2", "1"), (None, "2", None)])
async def test_a_min_scale_set_by_hand_in_the_meantime_is_kept(knative, controller, clock, values):
    by_hand, then, afterwards = values
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    body = {"metadata": {"annotations": {MIN: by_hand}}}
    await knative.cluster.patch(REVISION, "generate-00001", "default", body)
    await controller.tick()
    assert knative.min_scale("generate-00001") == then
    clock.at = MONDAY + timedelta(hours=20)
    await controller.tick()
    assert knative.min_scale("generate-00001") == afterwards


async def test_the_floor_is_divided_by_traffic_and_a_tag_without_traffic_gets_none(knative, controller):
    knative.service(
        "generate", {"generate-00001": 75, "generate-00002": 25, "generate-00003": (0, "preview")}
    )
    await knative.pool(windows=[{**OFFICE, "replicas": 4}])
    await controller.tick()
    assert [knative.min_scale(f"generate-0000{n}") for n in (1, 2, 3)] == ["3", "1", None]


async def test_a_new_revision_gets_the_floor_and_the_old_one_loses_it(knative, controller):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    knative.revision("generate", "generate-00002")
    knative.route("generate", {"generate-00002": 100})
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    assert knative.min_scale("generate-00002") == "2"


async def test_a_floor_above_max_scale_is_limited_and_reported(knative, controller):
    knative.service("generate", annotations={"autoscaling.knative.dev/max-scale": "1"})
    await knative.pool()
    await controller.tick()
    assert knative.min_scale("generate-00001") == "1"
    degraded = await knative.condition("Degraded")
    assert degraded["status"] == "True"
    assert "max-scale 1" in degraded["message"]


async def test_a_floor_above_activation_scale_is_limited_because_knative_refuses_more(knative, controller):
    knative.service("generate", annotations={"autoscaling.knative.dev/activation-scale": "2"})
    await knative.pool(windows=[{**OFFICE, "replicas": 3}])
    report = await controller.tick()
    assert report.errors == []
    assert knative.min_scale("generate-00001") == "2"
    assert "activation-scale 2" in (await knative.condition("Degraded"))["message"]


async def test_disabling_a_pool_releases_its_floor(knative, controller, cluster):
    knative.service("generate", annotations={MIN: "1"})
    await knative.pool()
    await controller.tick()
    await cluster.patch(WARM_POOL, "pool", "default", {"spec": {"enabled": False}})
    await controller.tick()
    assert knative.min_scale("generate-00001") == "1"
    assert (await knative.status())["reason"] == "disabled"


async def test_deleting_a_pool_releases_its_floor_first(knative, controller, cluster):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    await cluster.delete(WARM_POOL, "pool", "default")
    assert await cluster.list(WARM_POOL)
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    await controller.tick()
    assert await cluster.list(WARM_POOL) == []


async def test_a_pool_that_vanished_without_its_finalizer_leaves_no_floor_behind(
    knative, controller, cluster
):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    await cluster.patch(WARM_POOL, "pool", "default", {"metadata": {"finalizers": []}})
    await cluster.delete(WARM_POOL, "pool", "default")
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    assert knative.ownership("generate-00001") == {}


async def test_a_pool_with_another_target_moves_its_floor_there(knative, controller, cluster):
    knative.service("generate")
    knative.service("other")
    await knative.pool()
    await controller.tick()
    await cluster.patch(WARM_POOL, "pool", "default", {"spec": {"target": "other"}})
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    assert knative.min_scale("other-00001") == "2"


async def test_of_two_pools_with_one_target_the_older_counts(knative, controller):
    knative.service("generate")
    await knative.pool("a-first")
    await knative.pool("b-second", windows=[{**OFFICE, "replicas": 9}])
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"
    assert (await knative.condition("Ready", "b-second"))["reason"] == "TargetTaken"


async def test_the_status_shows_floor_reason_end_and_next_change(knative, controller, clock):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    knative.settle()
    await controller.tick()
    status = await knative.status()
    assert status["floor"] == 2
    assert status["ready"] == 2
    assert status["reason"] == "window/office-hours"
    assert status["until"] == "2026-11-23T19:00:00Z"
    assert status["nextChange"] == {
        "at": "2026-11-23T19:00:00Z",
        "floor": 0,
        "held": "0",
        "reason": "schedule/closed",
    }
    assert (await knative.condition("Ready"))["reason"] == "FloorHeld"


async def test_a_change_of_the_floor_is_one_event(knative, controller, cluster, clock):
    knative.service("generate")
    await knative.pool()
    for _ in range(3):
        await controller.tick()
        clock.on(timedelta(seconds=15))
    told = [event["message"] for event in await cluster.list(EVENT, "default")]
    assert len(told) == 1
    assert "window/office-hours" in told[0]


async def test_an_expiry_is_written_with_every_floor(knative, controller):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    assert knative.ownership("generate-00001")["floor-expires"] == "2026-11-23T19:00:00Z"


async def test_a_floor_that_falls_in_steps_falls_at_once_each_time(knative, controller, clock):
    knative.service("generate")
    steps = [{"name": f"s{n}", "from": "08:00", "to": f"19:0{n}", "replicas": 4 - n} for n in range(4)]
    await knative.pool(windows=steps)
    await controller.tick()
    for n in range(4):
        clock.at = MONDAY + timedelta(hours=19, minutes=n)
        await controller.tick()
        assert knative.min_scale("generate-00001") == (str(3 - n) if n < 3 else None)
