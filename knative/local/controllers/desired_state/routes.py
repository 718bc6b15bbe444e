"""A Route: which Revision gets which share of the requests, which tags have URLs, and its status (pure).

Conditions follow pkg/reconciler/route/traffic and the annotations pkg/reconciler/labeler of Knative Serving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from knative.client.resources import Object
from knative.labels import (
    CONFIGURATION_LABEL,
    ROLLOUT_STATE_ANNOTATION,
    ROUTES_ANNOTATION,
    ROUTING_STATE_LABEL,
    ROUTING_STATE_MODIFIED_ANNOTATION,
    VISIBILITY_LABEL,
)
from knative.local import conditions, objects
from knative.local.conditions import Condition
from knative.local.controllers.desired_state import rollout
from knative.local.controllers.desired_state.rollout import Rollout
from knative.local.routing import RevisionKey, TrafficTarget

Lookup = Callable[[str], Mapping[str, Any] | None]
"""Finds a Configuration or a Revision of the Route's namespace by its name."""
UrlOf = Callable[[str, str], str]
"""The public URL of a name in a namespace."""


@dataclass(frozen=True, slots=True)
class ResolvedTraffic:
    """What a Route's traffic resolves to: the entries of its status, or what is missing."""

    traffic: tuple[Object, ...]
    problem: Condition | None
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    """The shares of each entry for a latest Revision, by Configuration and tag."""

    @property
    def next_step_at(self) -> float | None:
        """When a rollout in progress takes its next step (Unix time); None without one."""
        return min((item.next_step_at for item in self.rollouts.values() if item.in_progress), default=None)


def resolve(
    route: Mapping[str, Any], configurations: Lookup, revisions: Lookup, url_of: UrlOf, now: float = 0.0
) -> ResolvedTraffic:
    """Find the Revisions of each traffic entry, and check that they can serve.

    Args:
        route: the Route.
        configurations: finds Configurations.
        revisions: finds Revisions.
        url_of: public URLs.
        now: Unix time; gradual rollouts depend on it.
    """
    meta = route["metadata"]
    traffic: list[Object] = []
    rollouts: dict[str, Rollout] = {}
    duration = rollout.duration_s(route)
    before = _rollouts_before(route, revisions) if duration else {}
    for entry in route["spec"].get("traffic") or ():
        if entry.get("revisionName"):
            name, problem = _ready_revision(entry["revisionName"], revisions)
        else:
            name, problem = _latest_ready(entry.get("configurationName") or meta["name"], configurations)
        if problem is not None:
            return ResolvedTraffic((), problem)
        percent, is_latest = entry.get("percent") or 0, not entry.get("revisionName")
        shares: tuple[tuple[str, int], ...] = ((str(name), percent),)
        if is_latest:
            key = _rollout_key(entry.get("configurationName") or meta["name"], entry.get("tag"))
            rollouts[key] = rollout.advance(before.get(key), str(name), percent, now, duration)
            shares = rollouts[key].revisions
        targets: list[Object] = [
            {"latestRevision": is_latest, "percent": share, "revisionName": revision}
            for revision, share in shares
        ]
        if entry.get("tag"):  # whose own URL leads to the latest Revision at once
            targets[-1]["tag"] = entry["tag"]
            targets[-1]["url"] = _url(route, f"{entry['tag']}-{meta['name']}", url_of)
        traffic += targets
    return ResolvedTraffic(tuple(traffic), None, rollouts)


def _rollout_key(configuration: str, tag: str | None) -> str:
    return f"{configuration}/{tag or ''}"


def _rollouts_before(route: Mapping[str, Any], revisions: Lookup) -> dict[str, Rollout]:
    """Rollouts in progress from the annotation, and settled ones from the status."""
    settled: dict[str, Rollout] = {}
    for entry in (route.get("status") or {}).get("traffic") or ():
        revision = revisions(entry["revisionName"])
        if entry.get("latestRevision") and entry.get("percent") and revision is not None:
            name = objects.labels_of(revision).get(CONFIGURATION_LABEL, "")
            key = _rollout_key(name, entry.get("tag"))
            settled[key] = Rollout(entry["percent"], ((entry["revisionName"], entry["percent"]),))
    return settled | rollout.read(route)


def _url(route: Mapping[str, Any], name: str, url_of: UrlOf) -> str:
    """The URL of a Route or of one of its tags; a label makes it the one inside of the cluster."""
    namespace = objects.namespace_of(route)
    if objects.labels_of(route).get(VISIBILITY_LABEL) == "cluster-local":
        return _cluster_local_url(name, namespace)
    return url_of(name, namespace)


def _cluster_local_url(name: str, namespace: str) -> str:
    return f"http://{name}.{namespace}.svc.cluster.local"


def _latest_ready(name: str, configurations: Lookup) -> tuple[str | None, Condition | None]:
    config = configurations(name)
    kind = "AllTrafficAssigned"
    if config is None:
        return None, conditions.false(
            kind, "ConfigurationMissing", f'Configuration "{name}" referenced in traffic not found.'
        )
    ready = (config.get("status") or {}).get("latestReadyRevisionName")
    if ready:
        return str(ready), None
    if objects.condition_status(config) == "False":
        return None, conditions.false(
            kind, "RevisionMissing", f'Configuration "{name}" does not have any ready Revision.'
        )
    return None, conditions.unknown(
        kind, "RevisionMissing", f'Configuration "{name}" is waiting for a Revision to become ready.'
    )


def _ready_revision(name: str, revisions: Lookup) -> tuple[str | None, Condition | None]:
    revision = revisions(name)
    kind = "AllTrafficAssigned"
    if revision is None:
        return None, conditions.false(
            kind, "RevisionMissing", f'Revision "{name}" referenced in traffic not found.'
        )
    status = objects.condition_status(revision)
    if status == "False":
        return None, conditions.false(
            kind, "RevisionMissing", f'Revision "{name}" referenced in traffic failed to become ready.'
        )
    if status != "True":
        return None, conditions.unknown(
            kind, "RevisionMissing", f'Revision "{name}" referenced in traffic is not yet ready.'
        )
    return name, None


def status(route: Mapping[str, Any], resolved: ResolvedTraffic, url_of: UrlOf, now: str) -> Object:
    """The Route's status; while something is missing, the traffic of before stays in effect."""
    meta = route["metadata"]
    old = route.get("status") or {}
    result: Object = {
        "address": {"url": _cluster_local_url(meta["name"], meta["namespace"])},
        "url": _url(route, meta["name"], url_of),
    }
    traffic = list(resolved.traffic) if resolved.problem is None else old.get("traffic")
    if traffic:
        result["traffic"] = traffic
    assigned = resolved.problem or conditions.true("AllTrafficAssigned")
    if resolved.next_step_at is not None:
        ingress = conditions.unknown(
            "IngressReady",
            "RolloutInProgress",
            "A gradual rollout of the latest revision(s) is in progress.",
        )
    else:
        ingress = conditions.true("IngressReady") if traffic else conditions.unknown("IngressReady")
    certificate = Condition("CertificateProvisioned", "True", "TLSNotEnabled", "autoTLS is not enabled")
    result["conditions"] = conditions.written(
        conditions.with_ready([assigned, certificate, ingress]), conditions.before(route), now
    )
    result["observedGeneration"] = meta["generation"]
    return result


def with_rollouts(route: Mapping[str, Any], resolved: ResolvedTraffic) -> Object | None:
    """The Route with its rollouts in progress in the annotation; None if nothing has to change."""
    value = rollout.written(resolved.rollouts) if resolved.problem is None else None
    if resolved.problem is not None or objects.annotations_of(route).get(ROLLOUT_STATE_ANNOTATION) == value:
        return None
    changed: Object = objects.clone(dict(route))
    annotations = changed["metadata"].setdefault("annotations", {})
    if value is None:
        del annotations[ROLLOUT_STATE_ANNOTATION]
    else:
        annotations[ROLLOUT_STATE_ANNOTATION] = value
    return changed


def splits(route: Mapping[str, Any]) -> tuple[TrafficTarget, ...]:
    """The traffic of the Route's status, for the activator."""
    namespace = objects.namespace_of(route)
    return tuple(
        TrafficTarget(
            RevisionKey(namespace, entry["revisionName"]), entry.get("percent") or 0, entry.get("tag")
        )
        for entry in (route.get("status") or {}).get("traffic") or ()
    )


@dataclass(frozen=True, slots=True)
class Targets:
    """Names of the Configurations and Revisions that a Route sends requests to, or soon will."""

    configurations: frozenset[str]
    revisions: frozenset[str]


def targets(route: Mapping[str, Any], configurations: Lookup, revisions: Lookup) -> Targets:
    """What a Route sends requests to: what its status and its specification name, with a share or a tag.

    A Revision's Configuration is a target as well, and so is the latest created Revision of a Configuration
    whose latest ready one gets requests, so that it is active when its turn comes.
    """
    found_configurations: set[str] = set()
    found_revisions: set[str] = set()
    for revision_name, configuration_name in _named(route):
        config_name = configuration_name
        if revision_name is not None:
            revision = revisions(revision_name)
            if revision is None:
                continue
            found_revisions.add(revision_name)
            owner = objects.labels_of(revision).get(CONFIGURATION_LABEL)
            if owner is not None and configurations(owner) is not None:
                found_configurations.add(owner)
        if config_name is not None and (config := configurations(config_name)) is not None:
            found_configurations.add(config_name)
            if latest := (config.get("status") or {}).get("latestCreatedRevisionName"):
                found_revisions.add(latest)
    return Targets(frozenset(found_configurations), frozenset(found_revisions))


def _named(route: Mapping[str, Any]) -> Iterator[tuple[str | None, str | None]]:
    """A Revision's or a Configuration's name for each entry of status and specification."""
    for entry in (route.get("status") or {}).get("traffic") or ():
        if entry.get("percent") or entry.get("tag"):
            yield entry["revisionName"], None
    for entry in route["spec"].get("traffic") or ():
        if entry.get("percent") or entry.get("tag"):
            if entry.get("revisionName"):
                yield entry["revisionName"], None
            else:
                yield None, entry.get("configurationName") or objects.name_of(route)


def names_of(target: Mapping[str, Any]) -> frozenset[str]:
    """Names of the Routes that the annotation of a Configuration or Revision lists."""
    listed = objects.annotations_of(target).get(ROUTES_ANNOTATION, "")
    return frozenset(name for name in listed.split(",") if name)


def with_route(target: Mapping[str, Any], route: str, *, routed: bool, now: str) -> Object | None:
    """A Configuration or Revision with the annotation, and a Revision with the routing state, that it needs.

    Args:
        target: the object as it is.
        route: a Route's name.
        routed: whether that Route sends requests to it.
        now: RFC 3339; noted where the routing state changes.

    Returns:
        The changed object; None if nothing has to change.
    """
    before = names_of(target)
    names = before | {route} if routed else before - {route}
    is_revision = target["kind"] == "Revision"
    state = objects.labels_of(target).get(ROUTING_STATE_LABEL)
    wanted = "active" if names else ("pending" if state == "pending" else "reserve")
    if names == before and (not is_revision or state == wanted):
        return None
    changed: Object = objects.clone(dict(target))
    annotations = changed["metadata"].setdefault("annotations", {})
    if names:
        annotations[ROUTES_ANNOTATION] = ",".join(sorted(names))
    else:
        annotations.pop(ROUTES_ANNOTATION, None)
    if is_revision and state != wanted:
        changed["metadata"].setdefault("labels", {})[ROUTING_STATE_LABEL] = wanted
        annotations[ROUTING_STATE_MODIFIED_ANNOTATION] = now
    return changed
