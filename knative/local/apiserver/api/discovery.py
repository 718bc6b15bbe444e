"""Discovery: which groups, versions, kinds and verbs there are.

Each is told twice: in lists, one for each version of each group, which any client understands, and in one
document for all groups, which `kubectl` asks for first (`AGGREGATED`; Kubernetes' KEP-3352).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from knative.client.resources import POD, Object, Resource
from knative.local.apiserver.api.representations import media_ranges
from knative.local.apiserver.kinds import KindInfo

Kinds = Mapping[Resource, KindInfo]

AGGREGATED = ("v2", "v2beta1")
"""Versions of `apidiscovery.k8s.io` in which everything is told at once; they differ in their name only."""

_STATUS_VERBS = ("get", "patch", "update")


def media_type(version: str) -> str:
    """The media type of the one document for all groups."""
    return f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"


def aggregated_version(accept: str) -> str | None:
    """The version of the one document that an Accept header asks for first, or None for the lists."""
    for kind, asked in media_ranges(accept):
        if asked.get("as") == "APIGroupDiscoveryList" and asked.get("g") == "apidiscovery.k8s.io":
            if kind == "application/json" and asked.get("v") in AGGREGATED:
                return asked["v"]
        elif kind in ("application/json", "*/*") and "as" not in asked:
            return None
    return None


def aggregated(kinds: Kinds, version: str, *, core: bool) -> Object:
    """`/api` (the core group) or `/apis` (all others) in one document."""
    groups = {"": ["v1"]} if core else dict(sorted(_groups(kinds).items()))
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [
            {
                "metadata": {**({"name": name} if name else {}), "creationTimestamp": None},
                "versions": [
                    {
                        "version": number,
                        "resources": [_discovered(info) for info in _infos(kinds, name, number)],
                        "freshness": "Current",
                    }
                    for number in versions
                ],
            }
            for name, versions in groups.items()
        ],
    }


def _discovered(info: KindInfo) -> Object:
    res = info.resource
    kind = {"group": res.group, "version": res.version, "kind": res.kind}
    entry: Object = {
        "resource": res.plural,
        "responseKind": kind,
        "scope": "Namespaced" if res.namespaced else "Cluster",
        "singularResource": info.singular,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        entry["shortNames"] = list(info.short_names)
    if info.categories:
        entry["categories"] = list(info.categories)
    if below := _subresources(info):
        entry["subresources"] = [
            {"subresource": name, "responseKind": kind, "verbs": list(verbs)} for name, verbs in below.items()
        ]
    return entry


def _subresources(info: KindInfo) -> dict[str, tuple[str, ...]]:
    """Verbs by name."""
    below: dict[str, tuple[str, ...]] = {}
    if info.has_status:
        below["status"] = _STATUS_VERBS
    if info.resource == POD:
        below["log"] = ("get",)
    return below


def _infos(kinds: Kinds, group_name: str, version: str) -> list[KindInfo]:
    return [info for res, info in kinds.items() if (res.group, res.version) == (group_name, version)]


def _groups(kinds: Kinds) -> dict[str, list[str]]:
    """Versions by group, the core group left out."""
    groups: dict[str, list[str]] = {}
    for resource in kinds:
        if resource.group and resource.version not in groups.setdefault(resource.group, []):
            groups[resource.group].append(resource.version)
    return groups


def core_versions(address: str) -> Object:
    """`/api`."""
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
    """`/apis/NAME`, or None if there is no such group."""
    versions = _groups(kinds).get(name)
    return None if versions is None else {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def _group(name: str, versions: Iterable[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(kinds: Kinds, group_name: str, version: str) -> Object | None:
    """`/api/v1` and `/apis/GROUP/VERSION`, or None if there is none."""
    found = _infos(kinds, group_name, version)
    if not found:
        return None
    resources: list[Object] = []
    for info in found:
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
        resources.append(entry)
        resources += [
            {
                "name": f"{res.plural}/{name}",
                "singularName": "",
                "namespaced": res.namespaced,
                "kind": res.kind,
                "verbs": list(verbs),
            }
            for name, verbs in _subresources(info).items()
        ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{version}" if group_name else version,
        "resources": resources,
    }
