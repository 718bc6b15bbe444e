"""The kinds that the local API serves, with their names, schemas and columns.

The project's own kinds are read from their CustomResourceDefinitions (`knative/manifests/**/*.yaml`), so that
a cluster and the local API validate with the same schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from knative.client import resources
from knative.client.resources import Resource
from knative.local.apiserver import printer_columns
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.printer_columns import Column
from knative.local.apiserver.schemas import cel_rules, core_kinds, knative_kinds
from knative.local.apiserver.schemas.object_meta import OBJECT_META

_MANIFESTS = Path(__file__).parents[2] / "manifests"
_OWN_GROUPS = frozenset({resources.WARM_POOL.group})


_SERVING = ("all", "knative", "serving")

BUILT_IN = (
    KindInfo(
        resources.SERVICE,
        "service",
        knative_kinds.SERVICE_SCHEMA,
        ("kservice", "ksvc"),
        _SERVING,
        (Column("URL", "string", ".status.url"), *printer_columns.LATEST, *printer_columns.READY),
    ),
    KindInfo(
        resources.CONFIGURATION,
        "configuration",
        knative_kinds.CONFIGURATION_SCHEMA,
        ("config", "cfg"),
        _SERVING,
        (*printer_columns.LATEST, *printer_columns.READY),
    ),
    KindInfo(
        resources.REVISION,
        "revision",
        knative_kinds.REVISION_SCHEMA,
        ("rev",),
        _SERVING,
        (
            Column("Config Name", "string", r".metadata.labels['serving\.knative\.dev/configuration']"),
            Column(
                "Generation", "string", r".metadata.labels['serving\.knative\.dev/configurationGeneration']"
            ),
            *printer_columns.READY,
            Column("Actual Replicas", "integer", ".status.actualReplicas"),
            Column("Desired Replicas", "integer", ".status.desiredReplicas"),
        ),
    ),
    KindInfo(
        resources.ROUTE,
        "route",
        knative_kinds.ROUTE_SCHEMA,
        ("rt",),
        _SERVING,
        (Column("URL", "string", ".status.url"), *printer_columns.READY),
    ),
    KindInfo(
        resources.POD_AUTOSCALER,
        "podautoscaler",
        knative_kinds.POD_AUTOSCALER_SCHEMA,
        ("kpa", "pa"),
        ("knative-internal", "autoscaling"),
        (
            Column("DesiredScale", "integer", ".status.desiredScale"),
            Column("ActualScale", "integer", ".status.actualScale"),
            *printer_columns.READY,
        ),
    ),
    KindInfo(
        resources.POD,
        "pod",
        core_kinds.POD_SCHEMA,
        ("po",),
        ("all",),
        (
            Column("Ready", "string", "", compute=printer_columns.ready_containers),
            Column("Status", "string", "", compute=printer_columns.pod_status),
            Column("Restarts", "string", "", compute=printer_columns.pod_restarts),
            printer_columns.AGE,
            Column("IP", "string", ".status.podIP", priority=1, empty="<none>"),
            Column("Node", "string", ".spec.nodeName", priority=1, empty="<none>"),
            Column("Nominated Node", "string", ".status.nominatedNodeName", priority=1, empty="<none>"),
            Column("Readiness Gates", "string", ".spec.readinessGates", priority=1, empty="<none>"),
        ),
        custom=False,
        unconditional_update=True,
    ),
    KindInfo(
        resources.NAMESPACE,
        "namespace",
        core_kinds.NAMESPACE_SCHEMA,
        ("ns",),
        columns=(
            Column("Status", "string", ".status.phase"),
            printer_columns.AGE,
        ),
        custom=False,
        unconditional_update=True,
    ),
    KindInfo(
        resources.CONFIG_MAP,
        "configmap",
        core_kinds.CONFIG_MAP_SCHEMA,
        ("cm",),
        columns=(
            Column("Data", "string", "", compute=printer_columns.data_count),
            printer_columns.AGE,
        ),
        has_status=False,
        custom=False,
        unconditional_update=True,
    ),
    KindInfo(
        resources.SECRET,
        "secret",
        core_kinds.SECRET_SCHEMA,
        columns=(
            Column("Type", "string", ".type"),
            Column("Data", "string", "", compute=printer_columns.data_count),
            printer_columns.AGE,
        ),
        has_status=False,
        custom=False,
        unconditional_update=True,
    ),
    KindInfo(
        resources.EVENT,
        "event",
        core_kinds.EVENT_SCHEMA,
        ("ev",),
        columns=(
            Column("Last Seen", "date", ".lastTimestamp"),
            Column("Type", "string", ".type"),
            Column("Reason", "string", ".reason"),
            Column("Object", "string", "", compute=printer_columns.event_object),
            Column("Subobject", "string", ".involvedObject.fieldPath", priority=1),
            Column("Source", "string", "", priority=1, compute=printer_columns.event_source),
            Column("Message", "string", ".message"),
            Column("First Seen", "date", ".firstTimestamp", priority=1),
            Column("Count", "string", ".count", priority=1),
            Column("Name", "string", ".metadata.name", priority=1),
        ),
        name_column=False,
        has_status=False,
        custom=False,
        unconditional_update=True,
    ),
    KindInfo(
        resources.LEASE,
        "lease",
        core_kinds.LEASE_SCHEMA,
        columns=(
            Column("Holder", "string", ".spec.holderIdentity"),
            printer_columns.AGE,
        ),
        has_status=False,
        custom=False,
    ),
)


def load(manifests: Path = _MANIFESTS) -> Mapping[Resource, KindInfo]:
    """All kinds by resource, those of the CustomResourceDefinitions in `manifests` included."""
    kinds = {info.resource: info for info in BUILT_IN}
    for document in _definitions(manifests):
        for info in _from_definition(document):
            kinds[info.resource] = info
    return kinds


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Seven times as fast as the one in Python; the definitions are read at every start."""


def _definitions(manifests: Path) -> Iterator[Mapping[str, Any]]:
    for path in sorted(manifests.rglob("*.yaml")):
        text = path.read_text()
        if "CustomResourceDefinition" not in text:
            continue
        for document in yaml.load_all(text, Loader=_LOADER):
            if (
                isinstance(document, dict)
                and document.get("kind") == "CustomResourceDefinition"
                and document["spec"]["group"] in _OWN_GROUPS
            ):
                yield document


def _from_definition(document: Mapping[str, Any]) -> Iterator[KindInfo]:
    spec = document["spec"]
    names = spec["names"]
    for version in spec["versions"]:
        if not version.get("served", True):
            continue
        schema = dict(version["schema"]["openAPIV3Schema"])
        schema["properties"] = {**schema["properties"], "metadata": OBJECT_META}
        yield KindInfo(
            Resource(
                spec["group"],
                version["name"],
                names["plural"],
                names["kind"],
                namespaced=spec["scope"] == "Namespaced",
            ),
            names.get("singular") or names["kind"].lower(),
            schema,
            tuple(names.get("shortNames") or ()),
            tuple(names.get("categories") or ()),
            tuple(
                Column(
                    column["name"],
                    column["type"],
                    column["jsonPath"],
                    column.get("priority", 0),
                    column.get("description", ""),
                )
                for column in version.get("additionalPrinterColumns") or ()
            ),
            has_status="status" in (version.get("subresources") or {}),
            has_rules=cel_rules.has_rules(schema),
        )
