"""Gradual rollouts: a new latest Revision gets its share of a Route's requests step by step (pure).

After pkg/reconciler/route/traffic/rollout.go of Knative Serving: the new Revision gets 1 percent at once and
the rest in equal steps until the duration is over. It takes from the Revision before it first. What a later
Revision finds in progress it takes over: the Revision before it keeps what it has got so far.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from knative.labels import ROLLOUT_DURATION_ANNOTATIONS, ROLLOUT_STATE_ANNOTATION
from knative.literals import LiteralError, read_duration
from knative.local import objects

_FIRST_STEP_S = 1.0
"""Seconds from the first percent to the next step at least; Knative measures how long its ingress takes."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The Revisions that share the requests meant for one Configuration's latest Revision."""

    percent: int
    """Of all the Route's requests."""
    revisions: tuple[tuple[str, int], ...]
    """Names and percentages, oldest first; together `percent`. A single one: no rollout is in progress."""
    step_percent: int = 0
    step_s: float = 0.0
    next_step_at: float = 0.0
    """Unix time in seconds."""

    @property
    def in_progress(self) -> bool:
        """Whether more than one Revision has a share."""
        return len(self.revisions) > 1


def duration_s(route: Mapping[str, Any]) -> float:
    """How long a rollout of the Route takes in seconds; 0: new Revisions get all requests at once."""
    annotations = objects.annotations_of(route)
    text = next((annotations[key] for key in ROLLOUT_DURATION_ANNOTATIONS if annotations.get(key)), "")
    try:
        return float(read_duration(text)) if text else 0.0
    except LiteralError:  # stored before it was checked
        return 0.0


def advance(before: Rollout | None, latest: str, percent: int, now: float, duration: float) -> Rollout:
    """The rollout at an instant.

    Args:
        before: as it was; None if nothing had requests.
        latest: the Revision that is to get all of them.
        percent: of all the Route's requests.
        now: Unix time in seconds.
        duration: seconds.
    """
    if before is None or not before.revisions or duration <= 0 or percent <= 1:
        return Rollout(percent, ((latest, percent),))
    current = _adjusted(before, percent)
    if not current.revisions:
        return Rollout(percent, ((latest, percent),))
    if current.revisions[-1][0] != latest:
        return _started(current, latest, now, duration)
    if current.in_progress and now >= current.next_step_at:
        return _stepped(current, now)
    return current


def _adjusted(rollout: Rollout, percent: int) -> Rollout:
    """With another share for all together: the newest gets what is added, the oldest lose what is taken."""
    revisions = list(rollout.revisions)
    difference = percent - rollout.percent
    if difference > 0:
        name, share = revisions[-1]
        revisions[-1] = name, share + difference
    else:
        revisions = _taken(revisions, -difference)
    return replace(rollout, percent=percent, revisions=tuple(revisions))


def _taken(revisions: Sequence[tuple[str, int]], percent: int) -> list[tuple[str, int]]:
    """Without `percent`, taken from the first ones."""
    left = []
    for name, share in revisions:
        taken = min(share, percent)
        percent -= taken
        if share > taken:
            left.append((name, share - taken))
    return left


def _started(rollout: Rollout, latest: str, now: float, duration: float) -> Rollout:
    """A rollout of `latest` begins, which may be one that has a share still (a rollback)."""
    kept = sum(share for name, share in rollout.revisions if name == latest)
    others = [item for item in rollout.revisions if item[0] != latest]
    first = max(kept, 1)
    newest_first = _taken(others[::-1], first - kept)
    remaining = rollout.percent - first
    if remaining <= 0:
        return Rollout(rollout.percent, ((latest, rollout.percent),))
    seconds = max(_FIRST_STEP_S, duration - _FIRST_STEP_S)
    steps = min(max(1.0, seconds / _FIRST_STEP_S), remaining)
    step_s = seconds / steps
    return Rollout(
        rollout.percent,
        (*newest_first[::-1], (latest, first)),
        step_percent=int(remaining / steps + 0.5),  # so that the last step may come early, as in Knative
        step_s=step_s,
        next_step_at=now + step_s,
    )


def _stepped(rollout: Rollout, now: float) -> Rollout:
    *others, (latest, _) = rollout.revisions
    others = _taken(others[::-1], rollout.step_percent)[::-1]
    share = rollout.percent - sum(percent for _, percent in others)
    if not others:
        return Rollout(rollout.percent, ((latest, share),))
    next_step_at = max(now, rollout.next_step_at) + rollout.step_s
    return replace(rollout, revisions=(*others, (latest, share)), next_step_at=next_step_at)


def written(rollouts: Mapping[str, Rollout]) -> str | None:
    """The annotation's value for rollouts by traffic entry; None if none is in progress."""
    in_progress = {
        key: {
            "percent": rollout.percent,
            "revisions": rollout.revisions,
            "stepPercent": rollout.step_percent,
            "stepSeconds": round(rollout.step_s, 3),
            "nextStepAt": round(rollout.next_step_at, 3),
        }
        for key, rollout in rollouts.items()
        if rollout.in_progress
    }
    return json.dumps(in_progress, separators=(",", ":"), sort_keys=True) if in_progress else None


def read(route: Mapping[str, Any]) -> dict[str, Rollout]:
    """The rollouts in the annotation; one that a user has spoilt is dropped."""
    text = objects.annotations_of(route).get(ROLLOUT_STATE_ANNOTATION)
    found: dict[str, Rollout] = {}
    try:
        for key, value in json.loads(text).items() if text else ():
            rollout = Rollout(
                int(value["percent"]),
                tuple((str(name), int(share)) for name, share in value["revisions"]),
                int(value["stepPercent"]),
                float(value["stepSeconds"]),
                float(value["nextStepAt"]),
            )
            if _is_valid(rollout):
                found[key] = rollout
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return {}
    return found


def _is_valid(rollout: Rollout) -> bool:
    shares = [share for _, share in rollout.revisions]
    return (
        0 < rollout.percent <= 100
        and sum(shares) == rollout.percent
        and all(share > 0 for share in shares)
        and 0 < rollout.step_percent <= rollout.percent
        and 0 < rollout.step_s < 1e9
        and 0 < rollout.next_step_at < 1e11
    )
