"""What goes wrong on a real Knative without any error, and how the controller notices and reacts."""

from datetime import timedelta

import pytest

from knative.client.resources import EVENT, WARM_POOL
from tests.warmpool.conftest import MONDAY, OFFICE, make_controller


@pytest.fixture
async def raised(knative, controller):
    """A pool whose floor of two has just been written."""
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    return knative


async def test_an_autoscaler_without_data_gets_one_wake_up_request(raised, controller, clock, waker):
    raised.deaf.add("generate")
    raised.settle()
    await controller.tick()
    assert waker.woken == []
    clock.on(timedelta(seconds=11))
    await controller.tick()
    assert waker.woken == [("default", "generate")]
    raised.settle()
    await controller.tick()
    assert (await raised.condition("Ready"))["reason"] == "FloorHeld"
    clock.on(timedelta(minutes=10))
    await controller.tick()
    assert len(waker.woken) == 1


async def test_a_floor_that_knative_ignores_is_checked_at_once_and_woken_in_time(
    raised, controller, clock, waker
):
    """Where Knative does nothing, no watch event follows: the controller has to check by itself."""
    raised.deaf.add("generate")
    raised.settle()
    key = ("default", "pool")
    assert controller.states[key].next_at == clock.at + timedelta(seconds=1)
    started = clock.at
    while not waker.woken:
        clock.at = controller.states[key].next_at
        await controller.tick(only=[key])
    assert clock.at - started <= timedelta(seconds=12)


async def test_wake_up_requests_back_off_while_they_do_not_help(raised, controller, clock, waker):
    waker.fake = type("Nobody", (), {"deaf": set()})  # nobody hears the request
    raised.deaf.add("generate")
    raised.settle()
    await controller.tick()
    for _ in range(240):  # an hour
        clock.on(timedelta(seconds=15))
        await controller.tick()
    assert 3 <= len(waker.woken) <= 15


async def test_on_an_old_knative_the_pod_autoscaler_is_patched_too_and_reported(raised, controller, clock):
    raised.old = True
    raised.settle()
    await controller.tick()
    clock.on(timedelta(seconds=11))
    await controller.tick()
    raised.settle()
    await controller.tick()
    status = await raised.status()
    assert status["ready"] == 2
    assert status["revisions"][0]["via"] == "PodAutoscaler"


async def test_on_an_old_knative_the_pod_autoscaler_is_restored_too(raised, controller, clock, cluster):
    raised.old = True
    raised.settle()
    await controller.tick()
    clock.on(timedelta(seconds=11))
    await controller.tick()
    raised.settle()
    clock.at = MONDAY + timedelta(hours=20)
    await controller.tick()
    clock.on(timedelta(seconds=11))
    await controller.tick()
    raised.settle()
    await controller.tick()
    assert (await raised.status())["ready"] == 0


async def test_a_floor_above_the_capacity_is_reported_though_the_service_stays_ready(
    raised, controller, clock
):
    raised.capacity = 1
    raised.settle()
    await controller.tick()
    assert (await raised.condition("CapacityShort"))["status"] == "False"
    clock.on(timedelta(minutes=5))
    await controller.tick()
    short = await raised.condition("CapacityShort")
    assert short["status"] == "True"
    assert "1 of 2 replicas" in short["message"]
    assert (await raised.condition("Ready"))["status"] == "False"
    raised.capacity = 2
    raised.settle()
    await controller.tick()
    assert (await raised.condition("CapacityShort"))["status"] == "False"
    assert (await raised.condition("Ready"))["status"] == "True"


async def test_replicas_that_cannot_be_scheduled_are_reported_at_once(raised, controller):
    raised.capacity = 1
    raised.settle()
    raised.unschedulable("generate-00001")
    await controller.tick()
    short = await raised.condition("CapacityShort")
    assert short["status"] == "True"
    assert "Insufficient nvidia.com/gpu" in short["message"]


async def test_a_rollout_that_finds_no_gpu_gets_one_from_the_old_floor(raised, controller):
    raised.settle()
    raised.revision("generate", "generate-00002")
    raised.unschedulable("generate-00002")
    raised.route("generate", {"generate-00001": 100}, latest="generate-00002")
    await controller.tick()
    assert raised.min_scale("generate-00001") == "1"
    assert "generate-00002 cannot be scheduled" in (await raised.condition("Degraded"))["message"]
    raised.registry.set_status(
        raised.key("Revision", "generate-00002"), {"conditions": [{"type": "Ready", "status": "True"}]}
    )
    raised.route("generate", {"generate-00002": 100})
    await controller.tick()
    assert raised.min_scale("generate-00001") is None
    assert raised.min_scale("generate-00002") == "2"


async def test_gpus_once_released_stay_free_until_the_new_revision_is_ready(raised, controller):
    raised.settle()
    raised.revision("generate", "generate-00002")
    raised.unschedulable("generate-00002")
    raised.route("generate", {"generate-00001": 100}, latest="generate-00002")
    await controller.tick()
    deploying = {"type": "ResourcesAvailable", "status": "Unknown", "reason": "Deploying"}
    raised.registry.set_status(raised.key("Revision", "generate-00002"), {"conditions": [deploying]})
    await controller.tick()
    assert raised.min_scale("generate-00001") == "1"
    assert raised.min_scale("generate-00002") is None


async def test_a_rollout_with_free_gpus_has_its_floor_before_traffic_moves(raised, controller):
    raised.settle()
    raised.revision("generate", "generate-00002")
    raised.route("generate", {"generate-00001": 100}, latest="generate-00002")
    await controller.tick()
    assert raised.min_scale("generate-00001") == "2"
    assert raised.min_scale("generate-00002") == "2"
    raised.route("generate", {"generate-00002": 100})
    await controller.tick()
    assert raised.min_scale("generate-00001") is None
    assert raised.min_scale("generate-00002") == "2"


@pytest.mark.parametrize("room", [True, False])
async def test_between_ready_and_traffic_no_floor_moves(raised, controller, room):
    raised.settle()
    raised.revision("generate", "generate-00002")
    raised.route("generate", {"generate-00001": 100}, latest="generate-00002")
    if not room:
        raised.unschedulable("generate-00002")
    await controller.tick()
    floors = [raised.min_scale("generate-00001"), raised.min_scale("generate-00002")]
    assert floors == (["2", "2"] if room else ["1", None])
    ready = [{"type": "Ready", "status": "True"}, {"type": "ResourcesAvailable", "status": "True"}]
    raised.registry.set_status(raised.key("Revision", "generate-00002"), {"conditions": ready})
    raised.route("generate", {"generate-00001": 100}, latest="generate-00002", ready="generate-00002")
    await controller.tick()
    assert [raised.min_scale("generate-00001"), raised.min_scale("generate-00002")] == floors
    raised.route("generate", {"generate-00002": 100})
    await controller.tick()
    assert [raised.min_scale("generate-00001"), raised.min_scale("generate-00002")] == [None, "2"]


async def test_a_floor_raised_ahead_is_released_when_no_gpu_turns_out_to_be_free(raised, controller):
    raised.settle()
    raised.revision("generate", "generate-00002")
    raised.route("generate", {"generate-00001": 100}, latest="generate-00002")
    await controller.tick()
    raised.unschedulable("generate-00002")
    await controller.tick()
    assert raised.min_scale("generate-00001") == "1"
    assert raised.min_scale("generate-00002") is None


async def test_a_rollout_that_fails_for_another_reason_gets_nothing(raised, controller):
    raised.settle()
    raised.revision("generate", "generate-00002")
    failed = {"type": "Ready", "status": "False", "reason": "ExitCode1", "message": "the container exits"}
    raised.registry.set_status(raised.key("Revision", "generate-00002"), {"conditions": [failed]})
    raised.route("generate", {"generate-00001": 100}, latest="generate-00002")
    await controller.tick()
    assert raised.min_scale("generate-00001") == "2"
    assert raised.min_scale("generate-00002") is None


async def test_cold_starts_are_measured_and_become_the_lead_time(raised, controller, clock):
    raised.capacity = 0
    raised.settle()
    await controller.tick()
    clock.on(timedelta(seconds=42))
    raised.capacity = 9
    raised.settle()
    await controller.tick()
    await controller.tick()
    status = await raised.status()
    assert status["coldStart"] == {"p50": "42.0s", "p95": "42.0s", "samples": 1}
    assert status["leadTime"] == "42s"
    assert status["leadTimeSource"] == "measured"
    clock.at = MONDAY + timedelta(days=1, hours=7, minutes=59, seconds=17)
    await controller.tick()
    assert raised.min_scale("generate-00001") is None
    clock.on(timedelta(seconds=1))
    await controller.tick()
    assert raised.min_scale("generate-00001") == "2"


async def test_a_start_that_waited_for_a_gpu_does_not_count_for_the_lead_time(raised, controller, clock):
    raised.capacity = 0
    raised.settle()
    raised.unschedulable("generate-00001")
    await controller.tick()
    clock.on(timedelta(hours=2))
    raised.capacity = 9
    raised.settle()
    await controller.tick()
    await controller.tick()
    assert "coldStart" not in await raised.status()


async def test_a_replica_that_waits_for_a_gpu_beside_a_ready_one_is_no_slow_start(raised, controller, clock):
    """The Revision does not report it, because it has a ready replica; its pods do."""
    raised.capacity = 1
    raised.settle()
    raised.waiting_pod("generate-00001")
    await controller.tick()
    clock.on(timedelta(seconds=4))
    await controller.tick()
    short = await raised.condition("CapacityShort")
    assert (short["status"], "Insufficient nvidia.com/gpu" in short["message"]) == ("True", True)
    raised.capacity = 2
    raised.settle()
    raised.placed("generate-00001")
    clock.on(timedelta(hours=2))
    await controller.tick()
    await controller.tick()
    assert "coldStart" not in await raised.status()
    assert (await raised.condition("CapacityShort"))["status"] == "False"


async def test_cold_starts_close_to_knatives_deadlines_are_reported(raised, controller, clock):
    raised.capacity = 0
    raised.settle()
    await controller.tick()
    clock.on(timedelta(seconds=570))
    raised.capacity = 9
    raised.settle()
    await controller.tick()
    await controller.tick()
    message = (await raised.condition("Degraded"))["message"]
    assert "progress deadline is 600 s" in message
    assert "requests time out after 300 s" in message


async def test_a_warmth_that_cannot_be_ordered_is_reported_and_the_floor_held(knative, controller):
    knative.service("generate")
    await knative.pool(windows=[{**OFFICE, "warmth": "standby"}])
    for _ in range(4):
        await controller.tick()
        knative.settle()
    assert knative.min_scale("generate-00001") == "2"
    assert knative.ownership("generate-00001")["floor-warmth"] == "2 standby"
    assert "no key to set the warmth of replicas with" in (await knative.condition("Degraded"))["message"]
    assert (await controller.tick()).writes == 0


async def test_a_restarted_controller_repeats_no_event(raised, controller, cluster, clock):
    raised.settle()
    await controller.tick()
    for _ in range(3):
        await make_controller(cluster, clock=clock).tick()
    told = [event for event in await cluster.list(EVENT, "default") if event["reason"] == "FloorChanged"]
    assert len(told) == 1


async def test_a_missing_service_is_reported_and_found_when_it_is_created(knative, controller):
    await knative.pool()
    await controller.tick()
    assert (await knative.condition("Ready"))["reason"] == "TargetMissing"
    knative.service("generate")
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"


async def test_an_invalid_pool_keeps_its_floor_until_it_expires_and_affects_no_other(
    knative, controller, cluster, clock
):
    knative.service("generate")
    knative.service("other")
    await knative.pool("good", target="other")
    await knative.pool("bad")
    await controller.tick()
    await cluster.patch(WARM_POOL, "bad", "default", {"spec": {"timeZone": "Mars/Olympus"}})
    await controller.tick()
    ready = await knative.condition("Ready", "bad")
    assert ready["reason"] == "InvalidSpec"
    assert "spec.timeZone = 'Mars/Olympus'" in ready["message"]
    assert knative.min_scale("generate-00001") == "2"
    clock.at = MONDAY + timedelta(hours=19)
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    assert knative.min_scale("other-00001") is None
    assert (await knative.status("good"))["reason"] == "schedule/closed"


async def test_a_revision_of_class_hpa_gets_its_floor(knative, controller, clock, waker):
    knative.service("generate", annotations={"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"})
    await knative.pool(windows=[{**OFFICE, "replicas": 1}])
    await controller.tick()
    assert knative.min_scale("generate-00001") == "1"


async def test_warnings_are_events(raised, controller, clock, cluster):
    raised.capacity = 0
    raised.settle()
    raised.unschedulable("generate-00001")
    await controller.tick()
    told = {event["reason"]: event for event in await cluster.list(EVENT, "default")}
    assert told["CapacityShort"]["type"] == "Warning"
    assert told["CapacityShort"]["involvedObject"]["name"] == "pool"


async def test_a_clock_set_back_by_an_hour_changes_no_right_floor(raised, controller, clock):
    raised.settle()
    await controller.tick()
    clock.on(timedelta(hours=-1))
    await controller.tick()
    assert raised.min_scale("generate-00001") == "2"
    clock.at = MONDAY + timedelta(hours=7)
    await controller.tick()
    assert raised.min_scale("generate-00001") is None
    assert raised.ownership("generate-00001") == {}


async def test_a_changed_split_never_leaves_fewer_warm_replicas_than_the_floor(knative, controller, clock):
    knative.service("generate", {"generate-00001": 75, "generate-00002": 25})
    await knative.pool(windows=[{**OFFICE, "replicas": 4}])
    for _ in range(2):
        await controller.tick()
        knative.settle()
    knative.route("generate", {"generate-00001": 50, "generate-00002": 50})
    knative.starting = {"generate-00002": 1}
    await controller.tick()
    knative.settle()
    await controller.tick()
    assert [knative.min_scale(f"generate-0000{n}") for n in (1, 2)] == ["3", "2"]
    assert (await knative.status())["ready"] == 4
    knative.starting = {}
    knative.settle()
    await controller.tick()
    assert [knative.min_scale(f"generate-0000{n}") for n in (1, 2)] == ["2", "2"]


async def test_a_changed_split_moves_at_once_where_no_gpu_is_free(knative, controller, clock):
    knative.service("generate", {"generate-00001": 75, "generate-00002": 25})
    knative.capacity = 4
    await knative.pool(windows=[{**OFFICE, "replicas": 4}])
    for _ in range(2):
        await controller.tick()
        knative.settle()
    knative.route("generate", {"generate-00001": 50, "generate-00002": 50})
    await controller.tick()
    knative.settle()
    knative.unschedulable("generate-00002")
    await controller.tick()
    assert [knative.min_scale(f"generate-0000{n}") for n in (1, 2)] == ["2", "2"]
