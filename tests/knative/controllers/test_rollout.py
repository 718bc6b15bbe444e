"""Gradual rollouts: the shares of old and new Revisions over time."""

import pytest

from knative.local.controllers.desired_state import rollout, routes
from knative.local.controllers.desired_state.rollout import Rollout
from tests.knative.controllers.objects import NOW, configuration, found, revision, route

AT = 1_800_000_000.0
SETTLED = Rollout(100, (("one", 100),))


def shares(latest, seconds, *, before=SETTLED, percent=100, duration=60.0):
    """The Revisions' shares at each of these seconds, looked at in turn."""
    seen, state = [], before
    for second in seconds:
        state = rollout.advance(state, latest, percent, AT + second, duration)
        seen.append(dict(state.revisions))
    return seen


def test_a_rollout_begins_with_one_percent_and_moves_all_in_its_duration():
    first, *_, half, almost, last = shares("two", [0.0, *range(1, 31), *range(31, 59), 60.0])
    assert first == {"one": 99, "two": 1}
    assert last == {"two": 100}
    assert 40 <= shares("two", [0.0, *range(1, 31)])[-1]["two"] <= 65
    assert sum(half.values()) == sum(almost.values()) == 100


@pytest.mark.parametrize("duration", [5.0, 30.0, 60.0, 600.0])
@pytest.mark.parametrize("percent", [2, 10, 50, 99, 100])
def test_shares_only_grow_add_up_and_are_all_moved_when_the_duration_is_over(duration, percent):
    before = Rollout(percent, (("one", percent),))
    seconds = [duration * step / 2000 for step in range(2401)]
    seen = shares("two", seconds, before=before, percent=percent, duration=duration)
    new = [item["two"] for item in seen]
    assert new == sorted(new)
    assert all(sum(item.values()) == percent for item in seen)
    assert new[-1] == percent
    assert new[len(new) // 4] < percent or percent == 2


@pytest.mark.parametrize(
    ("before", "percent", "duration"),
    [
        pytest.param(None, 100, 60.0, id="nothing had requests"),
        pytest.param(SETTLED, 100, 0.0, id="no duration"),
        pytest.param(Rollout(1, (("one", 1),)), 1, 60.0, id="a share that cannot be divided"),
        pytest.param(Rollout(0, ()), 50, 60.0, id="it had no share"),
    ],
)
def test_a_new_revision_gets_everything_at_once(before, percent, duration):
    assert rollout.advance(before, "two", percent, AT, duration) == Rollout(percent, (("two", percent),))


def test_a_revision_on_top_of_a_rollout_takes_from_the_newest_first():
    half = Rollout(100, (("one", 50), ("two", 50)), step_percent=2, step_s=1.0, next_step_at=AT + 1)
    first, *_, last = shares("three", [0.0, 1.0, 2.0, 3.0], before=half)
    assert first == {"one": 50, "two": 49, "three": 1}
    assert last["one"] == 50
    assert last["two"] < 49
    assert shares("three", [float(second) for second in range(70)], before=half)[-1] == {"three": 100}


def test_going_back_begins_with_what_the_old_revision_still_has():
    begun = Rollout(100, (("one", 99), ("two", 1)), step_percent=2, step_s=1.0, next_step_at=AT + 1)
    first, last = shares("one", [0.0, 61.0], before=begun)
    assert first == {"two": 1, "one": 99}
    assert last == {"one": 100}


@pytest.mark.parametrize(
    ("percent", "expected"),
    [(100, {"one": 50, "two": 50}), (80, {"one": 40, "two": 40}), (20, {"two": 20})],
)
def test_another_share_for_all_goes_to_the_newest_or_is_taken_from_the_oldest(percent, expected):
    before = Rollout(80, (("one", 50), ("two", 30)), step_percent=1, step_s=9.0, next_step_at=AT + 9)
    if percent == 80:
        before = Rollout(80, (("one", 40), ("two", 40)), step_percent=1, step_s=9.0, next_step_at=AT + 9)
    assert dict(rollout.advance(before, "two", percent, AT, 60.0).revisions) == expected


LATEST = {"configurationName": "a", "latestRevision": True, "percent": 100}


def gradual(*traffic, status, duration="60s", state=None):
    obj = route(*(traffic or [LATEST]), status=status)
    obj["metadata"]["annotations"] = {"serving.knative.dev/rollout-duration": duration}
    if state is not None:
        obj["metadata"]["annotations"]["pilotlight.dev/rollout"] = state
    return obj


def resolved(obj, latest, now=AT):
    config = configuration(latest_ready=latest)
    known = {name: revision(name) for name in ("a-00001", "a-00002")}
    return routes.resolve(obj, {"a": config}.get, known.get, lambda name, ns: f"http://{name}.{ns}", now)


BEFORE = [{"latestRevision": True, "percent": 100, "revisionName": "a-00001"}]


def test_a_route_in_rollout_lists_both_revisions_and_is_not_ready_yet():
    obj = gradual(status=BEFORE)
    traffic = resolved(obj, "a-00002")
    status = routes.status(obj, traffic, lambda name, ns: f"http://{name}.{ns}", NOW)
    assert [(item["revisionName"], item["percent"]) for item in status["traffic"]] == [
        ("a-00001", 99),
        ("a-00002", 1),
    ]
    assert found(status, "IngressReady")[:2] == found(status)[:2] == ("Unknown", "RolloutInProgress")
    assert traffic.next_step_at == pytest.approx(AT + 1, abs=1)


def test_the_state_of_a_rollout_is_kept_in_an_annotation_until_it_is_done():
    obj = gradual(status=BEFORE)
    for second in range(200):
        traffic = resolved(obj, "a-00002", AT + second)
        obj = routes.with_rollouts(obj, traffic) or obj
        obj["status"]["traffic"] = list(traffic.traffic)
        if traffic.next_step_at is None:
            break
        assert rollout.read(obj) == {"a/": traffic.rollouts["a/"]}
    assert 45 <= second <= 60
    assert "pilotlight.dev/rollout" not in obj["metadata"]["annotations"]
    assert [item["revisionName"] for item in obj["status"]["traffic"]] == ["a-00002"]


def test_a_tag_leads_to_the_latest_revision_at_once():
    tagged = {**LATEST, "tag": "new"}
    before = [{**BEFORE[0], "tag": "new"}]
    old, new = resolved(gradual(tagged, status=before), "a-00002").traffic
    assert "tag" not in old
    assert (new["tag"], new["url"], new["percent"]) == ("new", "http://new-a.default", 1)


def test_a_revision_that_is_named_does_not_take_part():
    named = {"revisionName": "a-00001", "percent": 100}
    (entry,) = resolved(gradual(named, status=BEFORE), "a-00002").traffic
    assert (entry["revisionName"], entry["percent"]) == ("a-00001", 100)


@pytest.mark.parametrize(
    "state",
    [
        *("", "x", "[]", "{}", '{"a/": 1}', '{"a/": {}}'),
        '{"a/":{"percent":100,"revisions":[["a-00001",98],["a-00002",1]],"stepPercent":1,"stepSeconds":1,"nextStepAt":1}}',
        '{"a/":{"percent":100,"revisions":[["a-00001",99],["a-00002",1]],"stepPercent":0,"stepSeconds":1,"nextStepAt":1}}',
        '{"a/":{"percent":100,"revisions":[["a-00001",99],["a-00002",1]],"stepPercent":1,"stepSeconds":1e999,"nextStepAt":1}}',
        '{"a/":{"percent":100,"revisions":[["a-00001",99],["a-00002",1]],"stepPercent":1,"stepSeconds":1,"nextStepAt":-1}}',
        '{"a/":{"percent":100,"revisions":[["a-00001","²"],["a-00002",1]],"stepPercent":1,"stepSeconds":1,"nextStepAt":1}}',
    ],
)
def test_an_annotation_that_a_user_has_spoilt_is_dropped(state):
    obj = gradual(status=BEFORE, state=state)
    assert rollout.read(obj) == {}
    assert [item["percent"] for item in resolved(obj, "a-00002").traffic] == [99, 1]


@pytest.mark.parametrize("duration", ["", "0s", "x", "-1s"])
def test_without_a_duration_requests_move_at_once(duration):
    (entry,) = resolved(gradual(status=BEFORE, duration=duration), "a-00002").traffic
    assert (entry["revisionName"], entry["percent"]) == ("a-00002", 100)
