"""Which Service, and which of its Revisions, a request is for: by `Host`, by tag, or by path.

A Service `a` in namespace `default` answers at the hosts `a.default.localhost`,
`a.default.svc.cluster.local`, `a.default.svc` and `a.default` (any port), its tag `t` at the same names with
`t-` in front, and at the path `/default/a/...` under any other host.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from knative.local.routing import RevisionKey, StartFailure, TrafficTarget

SUFFIXES = ("", ".svc", ".svc.cluster.local", ".localhost")


@dataclass(slots=True, eq=False)
class ServiceRoute:
    """The Revisions behind one address, with their shares of its requests.

    A Service keeps this object as long as it exists, so that requests can wait for its first Revision.
    """

    namespace: str
    name: str
    revisions: tuple[RevisionKey, ...] = ()
    weights: tuple[int, ...] = ()
    failure: StartFailure | None = None
    """Why it has no Revisions, if they will not come by waiting."""

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}"

    def choose(self) -> RevisionKey | None:
        """The Revision for one request; None while there is none."""
        if len(self.revisions) == 1:
            return self.revisions[0]
        if not self.revisions:
            return None
        return random.choices(self.revisions, self.weights)[0]  # noqa: S311  # shares, not secrets


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """Where a request goes, and the path that the replica gets."""

    route: ServiceRoute
    raw_path: bytes
    prefix: bytes
    """The part of the path that named the Service; empty if the host did."""


class RouteTable:
    """All Services' addresses, each looked up with one dictionary access."""

    def __init__(self) -> None:
        self._services: dict[tuple[str, str], ServiceRoute] = {}
        self._hosts: dict[bytes, ServiceRoute] = {}
        self._owned: dict[tuple[str, str], dict[bytes, ServiceRoute]] = {}

    def set(self, namespace: str, name: str, splits: Sequence[TrafficTarget]) -> ServiceRoute:
        """Add or change a Service. It keeps its `ServiceRoute`, so requests that wait on it go on waiting."""
        key = (namespace, name)
        route = self._services.setdefault(key, ServiceRoute(namespace, name))
        shares = [split for split in splits if split.percent > 0]
        route.revisions = tuple(split.revision for split in shares)
        route.weights = tuple(split.percent for split in shares)
        tagged: dict[bytes, ServiceRoute] = {}
        for split in splits:
            if split.tag is not None:
                target = ServiceRoute(namespace, name, (split.revision,), (100,))
                tagged |= dict.fromkeys(_hosts(namespace, f"{split.tag}-{name}"), target)
        self._remove_hosts(key)
        # A Service's own name takes precedence over another Service's tag that spells the same host.
        own = dict.fromkeys(_hosts(namespace, name), route)
        self._hosts = tagged | self._hosts | own
        self._owned[key] = tagged | own
        return route

    def remove(self, namespace: str, name: str) -> ServiceRoute | None:
        """Drop a Service; its route, or None if there was none."""
        self._remove_hosts((namespace, name))
        return self._services.pop((namespace, name), None)

    def _remove_hosts(self, key: tuple[str, str]) -> None:
        for host, route in self._owned.pop(key, {}).items():
            if self._hosts.get(host) is route:
                del self._hosts[host]

    def names(self) -> list[str]:
        """`NAME.NAMESPACE` of every Service, sorted."""
        return sorted(f"{name}.{namespace}" for namespace, name in self._services)

    def match(self, host: bytes, raw_path: bytes) -> RouteMatch | None:
        """Where a request with this `Host` and path goes; None: no Service has this address."""
        route = self._hosts.get(host)
        if route is None:
            route = self._hosts.get(host_name(host))
        if route is not None:
            return RouteMatch(route, raw_path, b"")
        parts = raw_path.split(b"/", 3)
        if len(parts) < 3:
            return None
        found = self._services.get((parts[1].decode("latin-1"), parts[2].decode("latin-1")))
        if found is None:
            return None
        rest = b"/" + parts[3] if len(parts) > 3 else b"/"
        return RouteMatch(found, rest, b"/" + parts[1] + b"/" + parts[2])


def _hosts(namespace: str, name: str) -> Iterable[bytes]:
    return [f"{name}.{namespace}{suffix}".encode() for suffix in SUFFIXES]


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The `Host` field, empty if there is none; field names are in lower case."""
    for name, value in headers:
        if name == b"host":
            return value
    return b""


def host_name(host: bytes) -> bytes:
    """A `Host` field's name or address without the port, in lower case, without a trailing dot."""
    bare = host.lower()
    if bare[-1:] != b"]":
        bare = bare.rpartition(b":")[0] or bare
    return bare.rstrip(b".")


def known_services(names: Sequence[str], limit: int = 20) -> Mapping[str, object]:
    """The members of a 404's problem document that list the Services that exist."""
    return {"services": list(names[:limit]), "more_services": max(0, len(names) - limit)}
