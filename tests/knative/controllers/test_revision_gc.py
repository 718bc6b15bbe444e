"""Which unused Revisions are deleted."""

from datetime import UTC, datetime, timedelta

from knative.local.controllers.desired_state.revision_gc import Retention, collectable

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def revision(number: int, *, age: timedelta, state: str = "reserve", **annotations: str):
    then = (NOW - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {
            "name": f"a-{number:05d}",
            "creationTimestamp": then,
            "labels": {"serving.knative.dev/routingState": state},
            "annotations": {"serving.knative.dev/routingStateModified": then, **annotations},
        }
    }


CONFIG = {"status": {"latestReadyRevisionName": "a-00099", "latestCreatedRevisionName": "a-00099"}}
FEW = Retention(min_non_active=2)


def test_old_revisions_are_deleted_except_the_newest_ones():
    made = [revision(number, age=timedelta(hours=100 - number)) for number in range(5)]
    assert collectable(CONFIG, made, NOW, FEW) == ["a-00000", "a-00001", "a-00002"]


def test_young_routed_latest_and_protected_revisions_stay():
    old = timedelta(days=30)
    made = [
        revision(1, age=timedelta(hours=47)),
        revision(2, age=old, state="active"),
        revision(99, age=old),
        revision(4, age=old, **{"serving.knative.dev/no-gc": "true"}),
    ]
    assert collectable(CONFIG, made, NOW, Retention(min_non_active=0)) == []


def test_revisions_beyond_the_maximum_are_deleted_whatever_their_age():
    made = [revision(number, age=timedelta(minutes=60 - number)) for number in range(5)]
    assert collectable(CONFIG, made, NOW, Retention(min_non_active=0, max_non_active=3)) == [
        "a-00000",
        "a-00001",
    ]


def test_without_time_limits_only_the_number_counts():
    made = [revision(number, age=timedelta(days=60 - number)) for number in range(5)]
    timeless = Retention(since_create=None, since_last_active=None, min_non_active=0, max_non_active=3)
    assert collectable(CONFIG, made, NOW, timeless) == ["a-00000", "a-00001"]
    endless = Retention(since_create=None, since_last_active=None, min_non_active=0, max_non_active=None)
    assert collectable(CONFIG, made, NOW, endless) == []


def test_one_time_limit_is_enough():
    made = [revision(number, age=timedelta(hours=20)) for number in range(3)]
    active = Retention(since_create=None, min_non_active=1)
    assert collectable(CONFIG, made, NOW, active) == ["a-00000", "a-00001"]
    assert collectable(CONFIG, made, NOW, Retention(min_non_active=1)) == []


def test_a_revision_that_never_had_a_route_stays():
    made = [revision(1, age=timedelta(days=30), state="pending")]
    assert collectable(CONFIG, made, NOW, Retention(min_non_active=0)) == []
