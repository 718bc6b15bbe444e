"""A Route: which Revision gets which share, which tags have URLs, what keeps it from being ready (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knative.client.resources import Object
from knative.labels import (
    ROUTES_ANNOTATION,
    ROUTING_STATE_LABEL,
    ROUTING_STATE_MODIFIED_ANNOTATION,
    VISIBILITY_LABEL,
)
from knative.local import objects
from knative.local.controllers.reconcilers import conditions
from knative.local.controllers.reconcilers.conditions import Condition
from knative.local.routing import RevisionKey, Split

Lookup = Callable[[str], Mapping[str, Any] | None]
"""A Configuration or a Revision of the Route's namespace by name."""
UrlOf = Callable[[str, str], str]
"""The public URL of a name in a namespace."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a Route's traffic comes to: the entries of its status, or the reason why not."""

    traffic: tuple[Object, ...]
    problem: Condition | None


def resolve(route: Mapping[str, Any], configurations: Lookup, revisions: Lookup, host: UrlOf) -> Resolved:
    """Follow each traffic entry to a Revision that can serve."""
    meta = route["metadata"]
    traffic: list[Object] = []
    for entry in route["spec"].get("traffic") or ():
        if entry.get("revisionName"):
            name, problem = _named(entry["revisionName"], revisions)
        else:
            name, problem = _latest(entry.get("configurationName") or meta["name"], configurations)
        if problem is not None:
            return Resolved((), problem)
        target: Object = {
            "latestRevision": not entry.get("revisionName"),
            "percent": entry.get("percent") or 0,
            "revisionName": name,
        }
        if entry.get("tag"):
            target["tag"] = entry["tag"]
            target["url"] = _url(route, f"{entry['tag']}-{meta['name']}", host)
        traffic.append(target)
    return Resolved(tuple(traffic), None)


def _url(route: Mapping[str, Any], name: str, outside: UrlOf) -> str:
    """Where a Route, or one of its tags, is to be called; a label keeps it inside the cluster."""
    namespace = objects.namespace_of(route)
    if objects.labels_of(route).get(VISIBILITY_LABEL) == "cluster-local":
        return _inside(name, namespace)
    return outside(name, namespace)


def _inside(name: str, namespace: str) -> str:
    return f"http://{name}.{namespace}.svc.cluster.local"


def _latest(name: str, configurations: Lookup) -> tuple[str | None, Condition | None]:
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


def _named(name: str, revisions: Lookup) -> tuple[str | None, Condition | None]:
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


def status(route: Mapping[str, Any], resolved: Resolved, url: UrlOf, now: str) -> Object:
    """The Route's status; while something is missing, the traffic of before stays."""
    meta = route["metadata"]
    old = route.get("status") or {}
    result: Object = {
        "address": {"url": _inside(meta["name"], meta["namespace"])},
        "url": _url(route, meta["name"], url),
    }
    traffic = list(resolved.traffic) if resolved.problem is None else old.get("traffic")
    if traffic:
        result["traffic"] = traffic
    assigned = resolved.problem or conditions.true("AllTrafficAssigned")
    ingress = conditions.true("IngressReady") if traffic else conditions.unknown("IngressReady")
    certificate = Condition("CertificateProvisioned", "True", "TLSNotEnabled", "autoTLS is not enabled")
    result["conditions"] = conditions.written(
        conditions.with_ready([assigned, certificate, ingress]), conditions.before(route), now
    )
    result["observedGeneration"] = meta["generation"]
    return result


def splits(route: Mapping[str, Any]) -> tuple[Split, ...]:
    """The Route's traffic, for the activator."""
    namespace = objects.namespace_of(route)
    return tuple(
        Split(RevisionKey(namespace, entry["revisionName"]), entry.get("percent") or 0, entry.get("tag"))
        for entry in (route.get("status") or {}).get("traffic") or ()
    )


def routed(route: Mapping[str, Any]) -> frozenset[str]:
    """Names of the Revisions that the Route leads to: those with a share or a tag."""
    return frozenset(
        entry["revisionName"]
        for entry in (route.get("status") or {}).get("traffic") or ()
        if entry.get("percent") or entry.get("tag")
    )


def routing_labels(revision: Mapping[str, Any], routes: Sequence[str], now: str) -> Object | None:
    """The Revision with the routing state that these routes give it, or None if it has that already."""
    labels, annotations = objects.labels_of(revision), objects.annotations_of(revision)
    state = labels.get(ROUTING_STATE_LABEL)
    wanted = "active" if routes else ("pending" if state == "pending" else "reserve")
    listed = ",".join(sorted(routes))
    if state == wanted and annotations.get(ROUTES_ANNOTATION, "") == listed:
        return None
    changed = objects.clone(dict(revision))
    meta = changed["metadata"]
    meta.setdefault("labels", {})[ROUTING_STATE_LABEL] = wanted
    marks = meta.setdefault("annotations", {})
    if listed:
        marks[ROUTES_ANNOTATION] = listed
    else:
        marks.pop(ROUTES_ANNOTATION, None)
    if state != wanted:
        marks[ROUTING_STATE_MODIFIED_ANNOTATION] = now
    changed_obj: Object = changed
    return changed_obj
