"""What a pool is charged against what its floors cost on a Knative that drains and rolls out."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.warmpool.reconcile.builders import (
    ALWAYS,
    NOW,
    autoscaler,
    held,
    revision,
    service,
    snapshot,
)
from tests.warmpool.reconcile.knative_model import DRAIN_S, START_S, Model, run
from warmpool.domain.cost import PriceList
from warmpool.domain.floor import Floor
from warmpool.reconcile import charging
from warmpool.reconcile.views import Unscheduled

HOUR = 3600
DAY = {"period": "day", "currency": "USD"}


def always(replicas, **spec):
    return {"windows": [{**ALWAYS, "replicas": replicas}], **spec}


def limited(amount, replicas=3, **spec):
    return always(replicas, limits={"budget": {"amount": amount, **DAY}}, **spec)


# The window opens for an hour at 13:00, an hour after the models begin; a GPU costs one dollar a second.
OPENS = HOUR
WINDOW = {"windows": [{**ALWAYS, "from": "13:00", "to": "14:00"}], "leadTime": "0s"}


def charged(model):
    return pytest.approx(model.caused, rel=0.005), model.account()


def test_a_window_is_charged_with_its_cold_start_and_its_drain():
    model = run(Model(WINDOW), [], 3 * HOUR)
    assert model.caused == 2 * (HOUR + DRAIN_S)
    expected, account = charged(model)
    assert account == expected


def test_a_rollout_is_charged_twice_while_both_revisions_hold_the_floor():
    model = run(Model(always(2)), [(HOUR, Model.roll_out)], 2 * HOUR)
    # One of the new replicas would be there anyway (initial-scale), until it could have drained.
    assert model.caused == 2 * 2 * HOUR + START_S + 2 * DRAIN_S - DRAIN_S
    assert model.account() == 2 * 2 * HOUR + 2 * (START_S + DRAIN_S)


def test_a_replica_that_waits_for_a_gpu_is_not_charged():
    model = run(Model(always(3), gpus=2), [], 2 * HOUR)
    assert model.caused == 2 * 2 * HOUR
    expected, account = charged(model)
    assert account == expected


def test_a_controller_that_was_away_charges_the_time_all_the_same():
    model = run(Model(always(2)), [(HOUR, lambda model: model.leave(20 * HOUR))], 22 * HOUR)
    assert model.caused == 2 * 22 * HOUR
    # Midnight begins a new month's account no earlier: all of it is in November.
    expected, account = charged(model)
    assert account == expected


def test_a_floor_that_went_while_the_controller_was_away_is_charged_until_it_went():
    def release(model):
        model.revisions["r1"].annotations.clear()

    actions = [(HOUR, lambda model: model.leave(20 * HOUR)), (5 * HOUR, release)]
    model = run(Model(always(2)), actions, 21 * HOUR)
    assert model.caused == 2 * (5 * HOUR + DRAIN_S)
    assert model.account() == pytest.approx(model.caused, rel=0.01)


def test_an_invalid_spec_is_no_way_around_the_budget():
    spec = always(2)
    actions = [(HOUR, Model.break_spec), (10 * HOUR, lambda model: model.mend_spec(spec))]
    model = run(Model(spec), actions, 11 * HOUR)
    assert model.caused == 2 * 11 * HOUR
    expected, account = charged(model)
    assert account == expected


def test_replicas_that_requests_start_are_not_charged():
    actions = [(600, lambda model: model.requests(5)), (1200, lambda model: model.requests(0))]
    model = run(Model(always(2)), actions, HOUR)
    account = model.account()
    assert account == pytest.approx(2 * HOUR, rel=0.01)


ACTIONS = st.one_of(
    st.just(("roll out", Model.roll_out)),
    st.integers(0, 4).map(lambda count: (f"requests {count}", lambda model: model.requests(count))),
    st.sampled_from([10, 50, 90]).map(lambda part: (f"shift {part}", lambda model: model.shift(part))),
)
AWAY = st.integers(60, 6 * HOUR).map(lambda span: (f"leave {span}", lambda model: model.leave(span)))
WINDOWS = st.lists(
    st.tuples(st.integers(0, 23), st.integers(1, 8), st.integers(1, 4)), min_size=1, max_size=3
).map(
    lambda found: [
        {"name": f"w{n}", "cron": f"0 {hour} * * *", "duration": f"{hours}h", "replicas": replicas}
        for n, (hour, hours, replicas) in enumerate(found)
    ]
)


def at(action, most):
    return st.lists(st.tuples(st.integers(0, 12 * HOUR - 1), action), max_size=most).map(
        lambda found: [(second, change) for second, (_, change) in found]
    )


@settings(max_examples=50, deadline=None)
@given(
    windows=WINDOWS,
    amount=st.integers(0, 120_000),
    actions=at(ACTIONS, 8),
    gpus=st.sampled_from([1, 2, 3, 100]),
    keep_alive=st.booleans(),
)
def test_floors_never_cost_more_than_the_budget(windows, amount, actions, gpus, keep_alive):
    """Whatever is rolled out, shifted or requested: by the model's own count, until midnight."""
    spec = {"windows": windows, "limits": {"budget": {"amount": amount, **DAY}}}
    model = run(Model(spec | ({"keepAlive": "10m"} if keep_alive else {}), gpus=gpus), actions, 12 * HOUR - 1)
    assert model.caused <= amount + 1e-6  # rounding of the model


@settings(max_examples=50, deadline=None)
@given(
    windows=WINDOWS,
    actions=at(st.one_of(ACTIONS, AWAY, st.just(("break", Model.break_spec))), 8),
    gpus=st.sampled_from([1, 2, 3, 100]),
)
def test_an_account_is_never_below_what_the_floors_cost(windows, actions, gpus):
    model = run(Model({"windows": windows}, gpus=gpus), actions, 12 * HOUR - 1)
    model.away_until = 0.0
    assert model.account() >= model.caused - 1e-6


# -------------------------------------------------------------------------------------------- single readings
def reading(**known):
    known = {"target": service(), "revisions": [revision(annotations=held())], **known}
    return charging.read(snapshot(**known), NOW)


@pytest.mark.parametrize(
    ("what", "of", "scale", "charged"),
    [
        ("ready", revision(annotations=held()), {"desired": 2, "actual": 2}, 2),
        ("starting", revision(annotations=held()), {"desired": 2, "actual": 0}, 2),
        ("waiting for a GPU", revision(annotations=held(), waiting=1), {"desired": 2, "actual": 1}, 1),
        (
            "the Revision cannot be scheduled",
            revision(annotations=held(), unschedulable="no"),
            {"desired": 2},
            0,
        ),
        ("more by requests", revision(annotations=held()), {"desired": 5, "actual": 5}, 2),
        ("the user's own replica", revision(annotations=held(user=1)), {"desired": 2, "actual": 2}, 1),
        ("only the user's own", revision(annotations=held(user=1)), {"desired": 2, "actual": 1}, 2 - 1),
        ("another pool's floor", revision(annotations=held(pool="other")), {"desired": 2, "actual": 2}, 0),
        ("no floor", revision(), {"desired": 2, "actual": 2}, 0),
    ],
)
def test_what_a_reading_charges(what, of, scale, charged):
    seen = reading(revisions=[of], autoscalers=[autoscaler(min_scale=2, **scale)])
    assert seen.charged.replicas == charged, what


def test_a_reading_charges_by_warmth():
    views = [revision(annotations=held(written=3, warmth="1 hot + 2 standby"))]
    assert reading(revisions=views, autoscalers=[autoscaler(desired=3, actual=3)]).charged == Floor(1, 1, 3)
    waiting = [replace(views[0], unscheduled=Unscheduled(1, "no GPU"))]
    assert reading(revisions=waiting, autoscalers=[autoscaler(desired=3, actual=2)]).charged == Floor(1, 1, 2)


@pytest.mark.parametrize("warmth", ["a lot", "² hot", "1 warm", "", "1 hot + "])
def test_a_warmth_that_cannot_be_read_is_charged_as_hot(warmth):
    views = [revision(annotations={**held(), "autoscaling.knative.dev.pilotlight.dev/floor-warmth": warmth})]
    assert reading(revisions=views, autoscalers=[autoscaler(desired=2, actual=2)]).charged == Floor.of(2)


@pytest.mark.parametrize(
    ("gpu", "resource", "prices", "expected"),
    [
        (None, None, {}, "l4"),
        ("a100", None, {"a100": 2}, "a100"),
        (None, "nvidia.com/mig-1g.10gb", {}, None),
        (None, "nvidia.com/mig-1g.10gb", {"nvidia.com/mig-1g.10gb": 1}, "nvidia.com/mig-1g.10gb"),
    ],
)
def test_the_gpu_that_is_priced(gpu, resource, prices, expected):
    listed = {
        "default": "l4",
        "gpus": {
            name: {"hourly": hourly, "date": "2026-01-01", "source": "test"}
            for name, hourly in {"l4": 3, **prices}.items()
        },
    }
    seen = snapshot(target=service(gpu=gpu, gpu_resource=resource), prices=PriceList.parse(listed))
    assert (charging.gpu_name(seen) or ("l4" if gpu is None and resource is None else None)) == expected
    assert charging.replica_price(seen).per_second > 0
