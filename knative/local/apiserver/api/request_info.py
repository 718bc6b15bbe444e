"""Which kind, object and subresource the path of a request names (pure).

The counterpart in Kubernetes is `RequestInfo` of k8s.io/apiserver, `pkg/endpoints/request/requestinfo.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from knative.client.resources import Resource
from knative.local.apiserver.errors import ResourceRef
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.records import Key


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The collection or object that a path names."""

    info: KindInfo
    namespace: str | None
    """None: all namespaces, or a cluster-wide kind."""
    name: str | None
    """None: the collection."""
    subresource: str | None

    @property
    def key(self) -> Key:
        """Under which the store keeps the object."""
        return Key(self.info.resource, self.namespace or "", self.name or "")

    @property
    def ref(self) -> ResourceRef:
        """How errors name the object."""
        return ResourceRef.of(self.info.resource, self.name or "")


def request_info(  # noqa: PLR0911  # one return for each form of path
    path: str, kinds: Mapping[Resource, KindInfo]
) -> RequestInfo | None:
    """What `path` names, or None if it names no kind that is served."""
    match [part for part in path.split("/") if part]:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    by_plural = {
        resource.plural: info
        for resource, info in kinds.items()
        if (resource.group, resource.version) == (group, version)
    }
    namespace: str | None
    match rest:
        case ["namespaces", namespace, plural, *more] if plural in by_plural:
            info = by_plural[plural]
            if not info.resource.namespaced:
                return None
        case [plural, *more] if plural in by_plural:
            info, namespace = by_plural[plural], None
            if more and info.resource.namespaced:
                return None
        case _:
            return None
    match more:
        case []:
            return RequestInfo(info, namespace, None, None)
        case [name]:
            return RequestInfo(info, namespace, name, None)
        case [name, subresource]:
            return RequestInfo(info, namespace, name, subresource)
    return None
