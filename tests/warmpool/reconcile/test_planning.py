"""From a floor to patches: the division by traffic, what is written, what is given back, when it expires."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.warmpool.reconcile.builders import (
    END,
    MIN,
    NOW,
    autoscaler,
    desired,
    held,
    revision,
    service,
    traffic,
)
from warmpool.reconcile import ownership
from warmpool.reconcile.planning import (
    AutoscalerWrite,
    plan_floor,
    release_autoscalers,
    release_floors,
    shares_by_traffic,
)
from warmpool.reconcile.views import TrafficShare

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("floor", "percent", "shares"),
    [
        (0, {"a": 100}, {"a": 0}),
        (2, {"a": 100}, {"a": 2}),
        (4, {"a": 75, "b": 25}, {"a": 3, "b": 1}),
        (4, {"a": 50, "b": 50}, {"a": 2, "b": 2}),
        (2, {"a": 99, "b": 1}, {"a": 1, "b": 1}),
        (1, {"a": 49, "b": 51}, {"a": 0, "b": 1}),
        (3, {"a": 50, "b": 50}, {"a": 2, "b": 1}),
        (3, {"a": 100, "b": 0}, {"a": 3, "b": 0}),
        (3, {"a": 0}, {"a": 0}),
        (10, {"a": 34, "b": 33, "c": 33}, {"a": 4, "b": 3, "c": 3}),
    ],
)
def test_a_floor_is_divided_by_traffic(floor, percent, shares):
    assert shares_by_traffic(floor, traffic(**percent)) == shares


def test_the_shares_of_a_revision_named_twice_add_up():
    shares = [TrafficShare("a", 50), TrafficShare("b", 25), TrafficShare("a", 25, tag="canary")]
    assert shares_by_traffic(4, shares) == {"a": 3, "b": 1}


@given(st.integers(0, 50), st.lists(st.integers(0, 100), min_size=1, max_size=6))
def test_a_divided_floor_adds_up_and_leaves_no_revision_with_traffic_cold(floor, percents):
    shares = shares_by_traffic(floor, [TrafficShare(f"r{n}", part) for n, part in enumerate(percents)])
    carrying = [f"r{n}" for n, part in enumerate(percents) if part]
    assert sum(shares.values()) == (floor if carrying else 0)
    if floor >= len(carrying):
        assert all(shares[name] for name in carrying)
    assert not any(part for name, part in shares.items() if name not in carrying)


@pytest.mark.parametrize(
    ("what", "view", "min_scale"),
    [
        ("nothing there", revision(), 2),
        ("a lower value of the user's", revision(annotations={MIN: "1"}), 2),
        ("the same", revision(annotations=held(written=2)), None),
        ("another floor of this pool", revision(annotations=held(written=3)), 2),
        ("another pool's", revision(annotations=held(pool="other", written=2)), 2),
        ("a user's value over the floor", revision(annotations={**held(written=2), MIN: "1"}), 2),
        ("a higher value of the user's", revision(annotations={MIN: "3"}), None),
        ("max-scale below the floor", revision(max_scale=1), 1),
        ("activation-scale below the floor", revision(activation_scale=1), 1),
        ("a floor that has expired", revision(annotations=held(expires=NOW - HOUR)), 2),
        ("a floor without an expiry", revision(annotations=held(expires=None)), 2),
    ],
)
def test_what_is_written_on_a_revision(what, view, min_scale):
    plan = plan_floor(desired(2), service(), [view], NOW)
    assert [write.min_scale for write in plan.writes] == ([] if min_scale is None else [min_scale]), what


def test_a_write_names_pool_value_the_users_value_and_expiry():
    (write,) = plan_floor(desired(2), service(), [revision(annotations={MIN: "1"})], NOW).writes
    assert write.annotations == {
        MIN: "2",
        ownership.POOL: "p",
        ownership.WRITTEN: "2",
        ownership.USER: "1",
        ownership.EXPIRES: "2026-11-23T19:00:00Z",
        ownership.WARMTH: None,
    }
    assert (write.version, write.held, write.lowers) == ("1", 0, False)


def test_the_warmth_of_a_floor_is_written_by_revision():
    revisions = [revision("r1"), revision("r2")]
    plan = plan_floor(desired(4, warmth="standby"), service(traffic(r1=75, r2=25)), revisions, NOW)
    warmth = {write.revision[1]: write.annotations[ownership.WARMTH] for write in plan.writes}
    assert warmth == {"r1": "3 standby", "r2": "1 standby"}


@pytest.mark.parametrize(
    ("annotations", "restored"),
    [
        (held(user=1), "1"),
        (held(user=None), None),
        ({**held(user=1), MIN: "5"}, "5"),  # set by hand since
        ({**held(user=1), "autoscaling.knative.dev/minScale": "1"}, None),  # the older spelling still stands
    ],
)
def test_a_floor_of_zero_restores_the_users_value(annotations, restored):
    (write,) = plan_floor(desired(0), service(), [revision(annotations=annotations)], NOW).writes
    assert write.annotations == {MIN: restored, **dict.fromkeys(ownership.ALL)}
    assert write.lowers == (int(restored or 0) < 2)


def test_marks_of_earlier_builds_go_with_the_floor_and_stay_until_then():
    older = {
        MIN: "2",
        "pilotlight.dev/pool": "p",
        "pilotlight.dev/min-scale-written": "2",
        "pilotlight.dev/min-scale-user": "1",
        "pilotlight.dev/floor-expires": "2026-11-23T19:00:00Z",
    }
    assert plan_floor(desired(2), service(), [revision(annotations=older)], NOW).writes == ()
    (write,) = plan_floor(desired(0), service(), [revision(annotations=older)], NOW).writes
    gone = dict.fromkeys(key for key in older if key != MIN)
    assert write.annotations == {MIN: "1", **dict.fromkeys(ownership.ALL), **gone}


def test_floors_are_given_back_without_traffic_without_a_service_and_on_other_services():
    mine = revision(annotations=held())
    for target in (None, service(deleting=True), service(traffic(r2=100))):
        assert [write.min_scale for write in plan_floor(desired(), target, [mine], NOW).writes] == [None]
    elsewhere = revision("x1", held(), service=("default", "x"))
    plan = plan_floor(desired(), service(), [mine, elsewhere], NOW)
    assert [write.revision[1] for write in plan.writes] == ["x1"]


def test_a_revision_that_is_being_deleted_or_that_another_pool_holds_is_not_released():
    views = [revision("r2", held(), deleting=True), revision("r3", held(pool="other"))]
    assert plan_floor(desired(0), service(), views, NOW).writes == ()
    assert [write.revision[1] for write in release_floors(views)] == ["r3"]


def test_a_floor_cut_by_max_scale_is_noted():
    plan = plan_floor(desired(3), service(), [revision(max_scale=1)], NOW)
    assert (plan.shares, plan.notes) == ({"r1": 1}, ("r1: floor 3 is cut to its max-scale 1",))


@pytest.mark.parametrize(
    ("until", "follows_demand", "expires"),
    [
        (END, False, END),
        (None, False, NOW + timedelta(hours=24)),
        (NOW + timedelta(days=3), False, NOW + timedelta(hours=24)),
        (NOW - HOUR, False, NOW + timedelta(hours=24)),
        (NOW + timedelta(minutes=5), True, NOW + HOUR),
        (NOW + timedelta(hours=2), True, NOW + timedelta(hours=2)),
    ],
)
def test_the_expiry_of_a_floor(until, follows_demand, expires):
    wanted = desired(until=until, follows_demand=follows_demand)
    (write,) = plan_floor(wanted, service(), [revision()], NOW).writes
    assert write.annotations[ownership.EXPIRES] == ownership.timestamp(expires)


def test_a_keep_alive_that_moves_with_every_request_is_renewed_about_once_an_hour():
    annotations, writes = {}, 0
    for minute in range(240):
        now = NOW + timedelta(minutes=minute)
        wanted = desired(until=now + timedelta(minutes=10), follows_demand=True)
        plan = plan_floor(wanted, service(), [revision(annotations=annotations)], now)
        for write in plan.writes:
            writes += 1
            annotations = {key: value for key, value in write.annotations.items() if value is not None}
    assert 4 <= writes <= 6


@pytest.mark.parametrize(
    ("written", "renewed"),
    [
        (END, False),
        (END - timedelta(seconds=30), False),
        (END + timedelta(seconds=30), False),
        (END + timedelta(minutes=2), True),
        (END - timedelta(minutes=2), False),  # it covers the next hour, and is renewed within it
        (NOW + timedelta(minutes=58), True),
        (NOW, True),
    ],
)
def test_an_expiry_that_moves_by_seconds_is_not_written_again(written, renewed):
    plan = plan_floor(desired(), service(), [revision(annotations=held(expires=written))], NOW)
    assert bool(plan.writes) == renewed


def test_an_expiry_with_a_fraction_of_a_second_is_written_once():
    end = NOW + timedelta(minutes=30, milliseconds=500)
    (write,) = plan_floor(desired(until=end), service(), [revision()], NOW).writes
    kept = {key: value for key, value in write.annotations.items() if value is not None}
    assert plan_floor(desired(until=end), service(), [revision(annotations=kept)], NOW).writes == ()


def test_a_pod_autoscaler_is_given_back_by_the_pool_that_wrote_it():
    views = [revision("r1", {MIN: "1"}), revision("r2")]
    scales = {"r1": autoscaler("r1", written_by="p"), "r2": autoscaler("r2", written_by="other")}
    assert release_autoscalers("p", views, scales, {}) == (AutoscalerWrite("r1", 1, None),)
    assert release_autoscalers("p", views, scales, {"r1": 2}) == ()
