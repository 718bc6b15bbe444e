"""A small Knative in virtual time: replicas that start, wait for GPUs, drain and roll out, and what they cost.

`run` lets the reconciler act on it as the controller would: at every change, at the instants that it asks for, and now
and then. The model counts by itself what the pool's floors cost.
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta

from tests.warmpool.reconcile.builders import (
    NAMESPACE,
    NO_GPU,
    NOW,
    autoscaler,
    invalid_pool,
    pool,
    revision,
    service,
    snapshot,
)
from warmpool.reconcile import reconciler, transition
from warmpool.reconcile.planning import FloorWrite
from warmpool.reconcile.state import PoolState
from warmpool.reconcile.transition import EffectResults, RetryPolicy
from warmpool.reconcile.views import KnativeCondition, TrafficShare, Unscheduled

START_S = 40
"""From a scheduled pod to a ready replica."""
DRAIN_S = 90
"""How long Knative keeps a replica that nobody wants: stable window and grace period."""
RECHECK_S = 900
RETRY = RetryPolicy(timedelta(seconds=1), timedelta(seconds=30))


@dataclass
class ModelRevision:
    """One Revision with its pods, each with the second at which it is ready; None: it waits for a GPU."""

    name: str
    created_at: float
    annotations: dict = field(default_factory=dict)
    pods: list = field(default_factory=list)
    traffic: int = 0
    """Replicas that requests want."""
    wanted: list = field(default_factory=list)
    """(second, replicas wanted, replicas wanted without a floor), the latest last."""
    inactive_since: float | None = None

    def min_scale(self):
        return int(self.annotations.get("autoscaling.knative.dev/min-scale", 0))

    def kept(self, now, column):
        """The most that was wanted within the drain time."""
        since = now - DRAIN_S + 1e-6
        recent = [entry for entry in self.wanted if entry[0] > since]
        before = [entry for entry in self.wanted if entry[0] <= since][-1:]
        return max((entry[column] for entry in before + recent), default=0)

    def ready(self, now):
        return sum(1 for at in self.pods if at is not None and at <= now)

    def occupying(self):
        return sum(1 for at in self.pods if at is not None)


class Model:
    """A Service with one Revision or more on some GPUs, and a pool for it."""

    def __init__(self, spec, *, gpus=100, price=1.0):
        self.pool = pool(spec)
        self.gpus = gpus
        self.price = price
        self.now = 0.0
        self.revisions = {"r1": ModelRevision("r1", 0.0)}
        self.split = {"r1": 100}
        self.latest = "r1"
        self.latest_ready = "r1"
        self.follows = True
        self.away_until = 0.0
        self.state = PoolState()
        self.caused = 0.0
        """What the floors have cost, in truth."""

    # ------------------------------------------------------------------------------------- what happens to it
    def roll_out(self):
        name = f"r{len(self.revisions) + 1}"
        self.revisions[name] = ModelRevision(name, self.now)
        self.latest = name

    def shift(self, percent):
        """Divide the traffic between the two newest Revisions that are ready."""
        names = [name for name in self.revisions if name <= self.latest_ready][-2:]
        self.follows = len(names) < 2
        self.split = {names[0]: 100} if len(names) < 2 else {names[0]: 100 - percent, names[1]: percent}

    def requests(self, replicas):
        for found in self.revisions.values():
            found.traffic = replicas if self.split.get(found.name) else 0

    def leave(self, seconds):
        self.away_until = self.now + seconds

    def break_spec(self):
        self.pool = invalid_pool()

    def mend_spec(self, spec):
        self.pool = pool(spec)

    # --------------------------------------------------------------------------------------------- its reactions
    def wanted_without_a_floor(self, found):
        """Replicas for requests, and the one that every new Revision starts with (initial-scale)."""
        starting = found.name == self.latest and found.name != self.latest_ready
        return max(found.traffic, 1 if starting else 0)

    def settle(self):
        """Knative's reaction to what is there at this instant."""
        for found in self.revisions.values():
            alone = self.wanted_without_a_floor(found)
            wanted = max(found.min_scale(), alone)
            if not found.wanted or found.wanted[-1][1:] != (wanted, alone):
                found.wanted.append((self.now, wanted, alone))
            while len(found.pods) < wanted:
                found.pods.append(None)
            while len(found.pods) > wanted and None in found.pods:
                found.pods.remove(None)
            del found.pods[max(wanted, found.kept(self.now, 1)) :]
            if found.pods:
                found.inactive_since = None
            elif found.inactive_since is None:
                found.inactive_since = self.now
        free = self.gpus - sum(found.occupying() for found in self.revisions.values())
        for found in self.revisions.values():
            for index, at in enumerate(found.pods):
                if at is None and free > 0:
                    found.pods[index] = self.now + START_S
                    free -= 1
        newest = self.revisions[self.latest]
        if self.latest != self.latest_ready and newest.ready(self.now):
            self.latest_ready = self.latest
            if self.follows:
                self.split = {self.latest: 100}

    def next_change(self):
        """The next instant at which something happens by itself."""
        instants = [at for found in self.revisions.values() for at in found.pods if at is not None]
        instants += [entry[0] + DRAIN_S for found in self.revisions.values() for entry in found.wanted[-4:]]
        return min((at for at in instants if at > self.now), default=float("inf"))

    def advance(self, until):
        """Let time pass, and count what the floors cost meanwhile."""
        for found in self.revisions.values():
            anyway = min(found.occupying(), found.kept(self.now, 2))
            self.caused += (found.occupying() - anyway) * self.price * (until - self.now)
        self.now = until

    # ------------------------------------------------------------------------------------------- the controller
    def observe(self):
        instant = NOW + timedelta(seconds=self.now)
        views, scales = [], []
        for found in self.revisions.values():
            waiting = sum(1 for at in found.pods if at is None)
            placed = {"ResourcesAvailable": KnativeCondition("False", "Unschedulable", NO_GPU)}
            view = revision(
                found.name,
                dict(found.annotations),
                conditions=placed if waiting and not found.ready(self.now) else {},
            )
            views.append(replace(view, unscheduled=Unscheduled(waiting, NO_GPU) if waiting else None))
            since = found.inactive_since
            active = KnativeCondition(
                "True" if since is None else "False",
                since=None if since is None else NOW + timedelta(seconds=since),
            )
            scales.append(
                autoscaler(
                    found.name,
                    desired=max(found.min_scale(), self.wanted_without_a_floor(found)),
                    actual=found.ready(self.now),
                    min_scale=view.min_scale,
                    active=active,
                )
            )
        shares = tuple(TrafficShare(name, part, latest=self.follows) for name, part in self.split.items())
        target = service(shares, created=self.latest, ready=self.latest_ready)
        known = {"target": target, "revisions": views, "autoscalers": scales}
        return snapshot(self.pool, **known), instant

    def reconcile(self):
        """One reconciliation; returns whether anything was written."""
        seen, instant = self.observe()
        result = reconciler.reconcile(seen, self.state, instant)
        for write in result.plan.writes:
            self._write(write)
        effects = EffectResults(floors_written=result.plan.writes)
        self.state = transition.next_state(self.state, result, effects, RETRY)
        return bool(result.plan.writes)

    def _write(self, write: FloorWrite):
        assert write.revision[0] == NAMESPACE
        annotations = self.revisions[write.revision[1]].annotations
        for key, value in write.annotations.items():
            if value is None:
                annotations.pop(key, None)
            else:
                annotations[key] = value

    def account(self):
        """What the account says at this instant, once the controller is there."""
        self.reconcile()
        return float(self.state.account.spent) if self.state.account else 0.0


def run(model, actions, seconds):
    """Run a model for some time; `actions` are pairs of a second and a function of the model."""
    waiting = sorted(actions, key=lambda action: action[0])
    rechecked = 0.0
    while model.now < seconds:
        while waiting and waiting[0][0] <= model.now:
            waiting.pop(0)[1](model)
        model.settle()
        if model.now >= model.away_until:
            for _ in range(4):  # its own writes are changes, too
                if not model.reconcile():
                    break
                model.settle()
            rechecked = model.now
        asked = model.state.next_at
        due = (asked - NOW).total_seconds() if asked else float("inf")
        due = max(min(due, rechecked + RECHECK_S), model.now + 1, model.away_until)
        model.advance(min(due, model.next_change(), waiting[0][0] if waiting else seconds, seconds))
    model.settle()
    return model
