"""Views of Kubernetes objects with defaults, so that a test names only what it is about."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from warmpool.domain.cost import PriceList
from warmpool.domain.floor import Floor
from warmpool.domain.pool import WarmPoolSpec
from warmpool.reconcile import ownership
from warmpool.reconcile.ownership import FloorOwnership
from warmpool.reconcile.planning import DesiredFloor
from warmpool.reconcile.snapshot import Snapshot
from warmpool.reconcile.views import (
    AutoscalerView,
    KnativeCondition,
    PoolView,
    RevisionView,
    ServiceView,
    TrafficShare,
    Unscheduled,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
"""A Monday."""
END = NOW + timedelta(hours=7)
NAMESPACE = "default"
MIN = "autoscaling.knative.dev/min-scale"
ALWAYS = {"name": "always", "from": "00:00", "to": "24:00", "replicas": 2}
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
PRICES = PriceList.parse(
    {"default": "l4", "gpus": {"l4": {"hourly": 3600, "date": "2026-01-01", "source": "one USD a second"}}}
)


def traffic(**percent):
    """`traffic(r1=75, r2=25)`; `latest="r1"` marks the share that follows the newest Revision."""
    latest = percent.pop("latest", None)
    return tuple(TrafficShare(name, part, latest=name == latest) for name, part in percent.items())


def service(shares=None, *, created="r1", ready="r1", gpus=1, **changes):
    """A Service `s` whose Revision `r1` has all traffic."""
    view = ServiceView(
        key=(NAMESPACE, "s"),
        uid="s",
        traffic=traffic(r1=100, latest="r1") if shares is None else shares,
        url="http://s.default.example.com",
        address="http://s.default.svc.cluster.local",
        latest_created=created,
        latest_ready=ready,
        deleting=False,
        gpu=None,
        gpus=gpus,
        container_concurrency=0,
    )
    return replace(view, **changes)


def held(pool="p", written=2, user=None, expires=END, warmth=None):
    """The annotations of a Revision whose floor a pool holds."""
    owner = FloorOwnership(pool, written, user, expires, warmth)
    return {key: value for key, value in ownership.write(owner).items() if value is not None}


def revision(name="r1", annotations=None, *, unschedulable=None, waiting=0, conditions=None, **changes):
    """A Revision of the Service `s`; `waiting` pods of it find no node."""
    found = dict(conditions or {})
    if unschedulable:
        found["ResourcesAvailable"] = KnativeCondition("False", "Unschedulable", unschedulable)
    annotations = annotations or {}
    view = RevisionView(
        key=(NAMESPACE, name),
        uid=name,
        version="1",
        service=(NAMESPACE, "s"),
        annotations=annotations,
        min_scale=ownership.min_scale(annotations),
        max_scale=None,
        activation_scale=None,
        class_hpa=False,
        conditions=found,
        deleting=False,
        unscheduled=Unscheduled(waiting, NO_GPU) if waiting else None,
    )
    return replace(view, **changes)


def autoscaler(name="r1", *, desired=0, actual=0, min_scale=None, **changes):
    """The PodAutoscaler of a Revision."""
    view = AutoscalerView((NAMESPACE, name), "1", min_scale, desired, actual)
    return replace(view, **changes)


def pool(spec=None, *, name="p", finalized=True, status=None, **changes):
    """A WarmPool `p` for the Service `s` that holds two replicas around the clock."""
    whole = {"target": "s", "windows": [ALWAYS]} if spec is None else {"target": "s", **spec}
    view = PoolView(
        key=(NAMESPACE, name),
        uid=name,
        version="1",
        generation=1,
        created="2026-01-01T00:00:00Z",
        spec=WarmPoolSpec.parse(whole),
        problems=(),
        hold=None,
        deleting=False,
        finalizers=(ownership.FINALIZER,) if finalized else (),
        status_json=json.dumps(status or {}),
    )
    return replace(view, **changes)


def snapshot(of=None, *, target=None, revisions=(), autoscalers=(), prices=PRICES, **changes):
    """What is known about a pool and its Service."""
    of = of or pool()
    view = Snapshot(
        pool=of,
        service=target,
        revisions=tuple(revisions),
        autoscalers={view.key[1]: view for view in autoscalers},
        effective_pool=of,
        demand=None,
        demand_error=None,
        signals={},
        cold_starts=None,
        history_error=None,
        prices=prices,
    )
    return replace(view, **changes)


def desired(replicas=2, *, warmth="hot", until=END, **changes):
    """What pool `p` is to hold."""
    return replace(DesiredFloor("p", Floor.of(replicas, warmth), until), **changes)


def invalid_pool(**changes):
    """A WarmPool whose spec cannot be read."""
    return replace(pool(), spec=None, problems=("spec.timeZone = 'Mars'",), **changes)
