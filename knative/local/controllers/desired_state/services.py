"""A Service: the Configuration and the Route that it owns, and its status, drawn from theirs (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from knative.client.resources import CONFIGURATION, ROUTE, Object
from knative.labels import ROLLOUT_STATE_ANNOTATION, ROUTES_ANNOTATION, SERVICE_LABEL, SERVICE_UID_LABEL
from knative.local import conditions, objects
from knative.local.conditions import Condition
from knative.local.controllers.desired_state import routes

_DEFAULT_TRAFFIC = [{"latestRevision": True, "percent": 100}]


def _child_meta(service: Mapping[str, Any]) -> Object:
    meta = service["metadata"]
    labels = {
        **objects.labels_of(service),
        SERVICE_LABEL: meta["name"],
        SERVICE_UID_LABEL: meta["uid"],
    }
    kept = {
        key: value
        for key, value in objects.annotations_of(service).items()
        if key != "kubectl.kubernetes.io/last-applied-configuration"
    }
    return {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "labels": labels,
        "annotations": kept,
        "ownerReferences": [objects.owner_reference(service)],
    }


def configuration(service: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Object:
    """The Configuration of a Service; `before`, the present one, keeps the Routes that send it requests."""
    meta = _child_meta(service)
    named = routes.names_of(before) if before is not None else frozenset()
    meta["annotations"][ROUTES_ANNOTATION] = ",".join(sorted(named | {objects.name_of(service)}))
    return objects.typed(
        CONFIGURATION,
        {"metadata": meta, "spec": {"template": objects.clone(service["spec"]["template"])}},
    )


def route(service: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Object:
    """The Route of a Service; `before`, the present one, keeps its rollouts in progress."""
    traffic = objects.clone(service["spec"].get("traffic") or _DEFAULT_TRAFFIC)
    for entry in traffic:
        if not entry.get("revisionName"):
            entry["configurationName"] = service["metadata"]["name"]
            entry["latestRevision"] = True
    meta = _child_meta(service)
    state = None if before is None else objects.annotations_of(before).get(ROLLOUT_STATE_ANNOTATION)
    if state is not None:
        meta["annotations"][ROLLOUT_STATE_ANNOTATION] = state
    return objects.typed(ROUTE, {"metadata": meta, "spec": {"traffic": traffic}})


def status(
    service: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    route_obj: Mapping[str, Any] | None,
    now: str,
    *,
    failures_are_final: bool = True,
) -> Object:
    """The Service's status, drawn from its Configuration's and its Route's.

    Unless `failures_are_final`, a condition that is False is Unknown.
    """
    dependents = [
        _not_owned(service, config, "ConfigurationsReady") or _configurations_ready(config),
        _not_owned(service, route_obj, "RoutesReady") or _routes_ready(config, route_obj),
    ]
    if not failures_are_final:
        dependents = [
            replace(item, status="Unknown") if item.status == "False" else item for item in dependents
        ]
    result: Object = {}
    if route_obj is not None and (answered := route_obj.get("status")):
        for key in ("address", "traffic", "url"):
            if answered.get(key):
                result[key] = objects.clone(answered[key])
    if config is not None and (made := config.get("status")):
        for key in ("latestCreatedRevisionName", "latestReadyRevisionName"):
            if made.get(key):
                result[key] = made[key]
    result["conditions"] = conditions.written(
        conditions.with_ready(dependents), conditions.before(service), now
    )
    result["observedGeneration"] = service["metadata"]["generation"]
    return result


def failed(status: Mapping[str, Any]) -> bool:
    """Whether a Service's status says that it failed."""
    return objects.condition_status({"status": status}) == "False"


def _not_owned(service: Mapping[str, Any], child: Mapping[str, Any] | None, kind: str) -> Condition | None:
    """The condition for a child that exists under the Service's name but is not owned by it."""
    if child is None or service["metadata"]["uid"] in objects.owner_uids(child):
        return None
    name = f'{child["kind"]} "{objects.name_of(child)}"'
    return conditions.false(kind, "NotOwned", f"There is an existing {name} that we do not own.")


def _configurations_ready(config: Mapping[str, Any] | None) -> Condition:
    kind = "ConfigurationsReady"
    ready = conditions.named(config)
    if config is None or ready is None or not conditions.is_current(config):
        return conditions.unknown(
            kind,
            "OutOfDate",
            "The Configuration is still working to reflect the latest desired specification.",
        )
    return Condition(kind, ready.status, ready.reason, ready.message)


def _routes_ready(config: Mapping[str, Any] | None, route_obj: Mapping[str, Any] | None) -> Condition:
    kind = "RoutesReady"
    ready = conditions.named(route_obj)
    if route_obj is None or ready is None or not conditions.is_current(route_obj):
        return conditions.unknown(
            kind, "OutOfDate", "The Route is still working to reflect the latest desired specification."
        )
    latest = ((config or {}).get("status") or {}).get("latestReadyRevisionName")
    for entry in (route_obj.get("status") or {}).get("traffic") or ():
        if ready.status == "True" and entry.get("latestRevision") and entry["revisionName"] != latest:
            return conditions.unknown(
                kind, "TrafficNotMigrated", "Traffic is not yet migrated to the latest revision."
            )
    return Condition(kind, ready.status, ready.reason, ready.message)
