"""How many replicas the measurements ask for: the cases of Kubernetes' replica_calculator_test.go."""

import pytest

from knative.utilization import CPU, MEMORY, NoProposal, Observation, Pod, Sample, Target, group, propose

NOW = 1_000_000.0
HOT, COOL = NOW, NOW - 3600.0
"""Started just now, so that CPU time may be that of the start; or long ago."""


def make_pods(count, requests=(), ready=(), phases=(), *, ending=(), started=()):
    """`count` replicas of two containers that ask for the same, ready for ever unless told otherwise."""
    pods = []
    for at in range(count):
        asked = requests[at] if at < len(requests) else None
        phase = phases[at] if phases else "Running"
        begun = started[at] if started else 0.0
        pods.append(
            Pod(
                f"pod-{at}",
                running=phase != "Pending",
                ignored=phase == "Failed" or (ending[at] if ending else False),
                ready=ready[at] if at < len(ready) else True,
                ready_changed=begun,
                started=begun,
                requests=(("container1", asked), ("container2", asked)),
            )
        )
    return pods


def measured(levels, each=2):
    return {f"pod-{at}": Sample(level * each, NOW, 60.0) for at, level in enumerate(levels)}


CASES = {
    "up": (3, 5, (300, 500, 700), 30, 50, {}),
    "up, less for one unready": (3, 4, (300, 500, 700), 30, 60, {"ready": (False, True, True)}),
    "up, less for one just started": (3, 4, (300, 500, 700), 30, 60, {"started": (HOT, COOL, COOL)}),
    "not up for unready ones": (3, 3, (400, 500, 700), 30, 40, {"ready": (True, False, False)}),
    "not up for starting ones": (
        3, 3, (400, 500, 700), 30, 40, {"ready": (True, False, False), "started": (COOL, HOT, HOT)},
    ),
    "up, failed ones don't count": (
        2, 4, (500, 700), 30, 60,
        {"ready": (True, True, False, False), "phases": ("Running", "Running", "Failed", "Failed")},
    ),
    "up, ending ones don't count": (
        2, 4, (500, 700), 30, 60,
        {"ready": (True, True, False, False), "ending": (False, False, True, True)},
    ),
    "down": (5, 3, (100, 300, 500, 250, 250), 50, 28, {}),
    "down, unready ones don't count": (
        5, 2, (100, 300, 500, 250, 250), 50, 30, {"ready": (True, True, True, False, False)},
    ),
    "down, pending ones don't count": (
        5, 1, (100,), 50, 10, {"ready": (True, *(False,) * 4), "phases": ("Running", *("Pending",) * 4)},
    ),
    "down, just started ones don't count": (
        5, 2, (100, 300, 500, 250, 250), 50, 30, {"started": (COOL, COOL, COOL, HOT, HOT)},
    ),
    "near enough": (3, 3, (1010, 1030, 1020), 100, 102, {"requests": (900, 1000, 1100)}),
    "measurements of unknown ones don't count": (
        4, 24, (4000, 9500, 3000, 7000, 3200, 2000), 100, 587, {},
    ),
    "missing ones count as busy on the way down": (4, 3, (400, 95), 100, 24, {}),
    "missing ones change nothing at the target": (2, 2, (1000,), 100, 100, {}),
    "missing ones count as idle on the way up": (2, 2, (1900,), 100, 190, {}),
    "a missing one keeps the other": (2, 2, (600,), 100, 60, {}),
    "missing and unready": (3, 3, (100, 450), 50, 45, {"ready": (False, True, True)}),
    "missing and just started": (3, 3, (100, 450), 50, 45, {"started": (HOT, COOL, COOL)}),
    "missing and unready, up": (3, 4, (100, 2000), 50, 200, {"ready": (False, True, True)}),
    "missing and unready, down": (4, 3, (100, 100, 100), 50, 10, {"ready": (False, True, True, True)}),
    "missing with a target above all": (
        4, 2, (200, 100, 100), 300, 6,
        {"ready": (False, True, True, True), "requests": (1000, 1000, 2000, 2000)},
    ),
    "one more than there should be": (2, 2, (100, 100), 50, 10, {"phases": ("Running",) * 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_utilization(name):
    current, want, levels, target, utilization, given = CASES[name]
    count = max(current, len(given.get("phases", ())), len(given.get("ending", ())))
    given = {"requests": (1000,) * max(count, len(levels)), **given}
    seen = propose(
        Target(CPU, utilization=target),
        current,
        Observation(NOW, make_pods(count, **given), measured(levels)),
    )
    assert (seen.replicas, seen.utilization) == (want, utilization)


@pytest.mark.parametrize(
    ("replicas", "levels", "target", "usage", "given"),
    [
        ((3, 4), (20000, 10000, 30000), 15000, 20000, {}),
        ((3, 6), (50000, 10000, 30000), 15000, 30000, {"ready": (True, True, False)}),
        ((3, 7), (50000, 15000, 30000), 15000, 31666, {"ready": (False, True, False)}),
        ((5, 3), (12000,) * 5, 20000, 12000, {}),
        ((3, 3), (20000, 21000, 21000), 20000, 20666, {}),
        ((5, 5), (20000, 19000, 21000), 20000, 20000, {}),
        ((2, 2), (10000, 10000), 17000, 10000, {"phases": ("Running",) * 3}),
    ],
)
def test_an_average_amount(replicas, levels, target, usage, given):
    current, want = replicas
    pods = make_pods(max(current, len(given.get("phases", ()))), **given)
    seen = propose(Target(MEMORY, average=target), current, Observation(NOW, pods, measured(levels, each=1)))
    assert (seen.replicas, seen.average, seen.utilization) == (want, usage, None)


def test_what_cannot_be_computed_is_said():
    target = Target(CPU, utilization=100)
    with pytest.raises(NoProposal, match="no metrics returned from resource metrics API"):
        propose(target, 4, Observation(NOW, make_pods(4, (1000,) * 3), {}))
    with pytest.raises(NoProposal, match="missing request for cpu in container container1 of Pod pod-0"):
        propose(target, 1, Observation(NOW, make_pods(1), measured((200,))))
    with pytest.raises(NoProposal, match=r"no metrics returned matched known pods"):
        propose(target, 1, Observation(NOW, make_pods(1, (1000,)), {"other": Sample(1, NOW, 60.0)}))
    with pytest.raises(NoProposal, match="pods might be unready"):
        propose(target, 1, Observation(NOW, make_pods(1, (1000,), ready=(False,)), measured((200,))))


def alone(resource=CPU, **pod):
    """How a single replica, measured until now over `window` seconds, is counted."""
    window = pod.pop("window", 60.0)
    at = pod.pop("at", NOW)
    groups = group(Observation(NOW, [Pod("a", **pod)], {"a": Sample(1, at, window)}), resource)
    return "ready" if groups.ready else "unready" if groups.unready else "other"


@pytest.mark.parametrize(
    ("pod", "counted"),
    [
        ({"started": NOW}, "unready"),  # nothing says that it is ready
        ({"started": NOW - 60, "ready": True, "ready_changed": NOW - 30, "window": 30.0}, "ready"),
        ({"started": NOW - 60, "ready": True, "ready_changed": NOW - 30, "window": 60.0}, "unready"),
        ({"started": NOW - 600, "ready": False, "ready_changed": NOW - 594}, "unready"),
        ({"started": NOW - 400, "ready": True, "ready_changed": NOW - 400, "at": NOW - 380}, "ready"),
        ({"started": NOW - 600, "ready": False, "ready_changed": NOW - 540}, "ready"),
        ({"ready": None, "resource": MEMORY}, "ready"),
        ({"running": False}, "unready"),
        ({"ignored": True, "running": False}, "other"),
    ],
)
def test_who_counts(pod, counted):
    assert alone(**pod) == counted
