"""Discovery documents: which groups, versions, kinds and verbs are served (pure).

Only the lists that every client understands; `kubectl` falls back to them where the aggregated document of
`apidiscovery.k8s.io` is not offered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from knative.client.resources import POD, Object, Resource
from knative.local.apiserver.kind_info import KindInfo

Kinds = Mapping[Resource, KindInfo]

_STATUS_VERBS = ("get", "patch", "update")


def core_versions(address: str) -> Object:
    """`/api`; `address` is the host and port of the server."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(kinds: Kinds) -> Object:
    """`/apis`."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(name, versions) for name, versions in sorted(_groups(kinds).items())],
    }


def group(kinds: Kinds, name: str) -> Object | None:
    """`/apis/NAME`, or None if the group is not served."""
    versions = _groups(kinds).get(name)
    return None if versions is None else {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def resource_list(kinds: Kinds, group_name: str, version: str) -> Object | None:
    """`/api/v1` and `/apis/GROUP/VERSION`, or None if it is not served."""
    found = [info for res, info in kinds.items() if (res.group, res.version) == (group_name, version)]
    if not found:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{version}" if group_name else version,
        "resources": [entry for info in found for entry in _entries(info)],
    }


def _entries(info: KindInfo) -> Iterable[Object]:
    res = info.resource
    entry: Object = {
        "name": res.plural,
        "singularName": info.singular,
        "namespaced": res.namespaced,
        "kind": res.kind,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        entry["shortNames"] = list(info.short_names)
    if info.categories:
        entry["categories"] = list(info.categories)
    yield entry
    subresources: dict[str, tuple[str, ...]] = {}
    if info.has_status:
        subresources["status"] = _STATUS_VERBS
    if res == POD:
        subresources["log"] = ("get",)
    for name, verbs in subresources.items():
        yield {
            "name": f"{res.plural}/{name}",
            "singularName": "",
            "namespaced": res.namespaced,
            "kind": res.kind,
            "verbs": list(verbs),
        }


def _groups(kinds: Kinds) -> dict[str, list[str]]:
    """Versions by group, the core group left out."""
    groups: dict[str, list[str]] = {}
    for resource in kinds:
        if resource.group and resource.version not in groups.setdefault(resource.group, []):
            groups[resource.group].append(resource.version)
    return groups


def _group(name: str, versions: Iterable[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}
