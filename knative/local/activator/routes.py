"""Which Service, and which of its Revisions, a request is for: by `Host`, by tag, or by path.

A Service `a` in `default` answers at `a.default.localhost`, `a.default.svc.cluster.local`, `a.default.svc`
and `a.default` (any port), its tag `t` at the same names with `t-` in front, and at the path
`/default/a/...` under any other host name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from knative.local.routing import RevisionKey, Split

SUFFIXES = ("", ".svc", ".svc.cluster.local", ".localhost")


@dataclass(slots=True, eq=False)
class Route:
    """One address: the Revisions behind it and how often each is to be chosen."""

    namespace: str
    name: str
    revisions: tuple[RevisionKey, ...] = ()
    weights: tuple[int, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}"

    def choose(self) -> RevisionKey | None:
        """The Revision for one request; None while none is routable."""
        if len(self.revisions) == 1:
            return self.revisions[0]
        if not self.revisions:
            return None
        return random.choices(self.revisions, self.weights)[0]  # noqa: S311 shares, not secrets


@dataclass(frozen=True, slots=True)
class Match:
    """Where a request goes, and the path that the replica shall see."""

    route: Route
    raw_path: bytes
    prefix: bytes


class RouteTable:
    """All Services' addresses, looked up by one dictionary access."""

    def __init__(self) -> None:
        self._services: dict[tuple[str, str], Route] = {}
        self._hosts: dict[bytes, Route] = {}
        self._owned: dict[tuple[str, str], dict[bytes, Route]] = {}

    def set(self, namespace: str, name: str, splits: Sequence[Split]) -> Route:
        """Add or change a Service; its own address keeps its `Route` object, so who waits on it goes on."""
        key = (namespace, name)
        route = self._services.setdefault(key, Route(namespace, name))
        shares = [split for split in splits if split.percent > 0]
        route.revisions = tuple(split.revision for split in shares)
        route.weights = tuple(split.percent for split in shares)
        tagged: dict[bytes, Route] = {}
        for split in splits:
            if split.tag is not None:
                target = Route(namespace, name, (split.revision,), (100,))
                tagged |= dict.fromkeys(_hosts(namespace, f"{split.tag}-{name}"), target)
        self._disown(key)
        # A Service's own name goes before another one's tag of the same spelling.
        own = dict.fromkeys(_hosts(namespace, name), route)
        self._hosts = tagged | self._hosts | own
        self._owned[key] = tagged | own
        return route

    def remove(self, namespace: str, name: str) -> Route | None:
        """Drop a Service; its route, or None if there was none."""
        self._disown((namespace, name))
        return self._services.pop((namespace, name), None)

    def _disown(self, key: tuple[str, str]) -> None:
        for host, route in self._owned.pop(key, {}).items():
            if self._hosts.get(host) is route:
                del self._hosts[host]

    def names(self) -> list[str]:
        """`NAME.NAMESPACE` of every Service, sorted."""
        return sorted(f"{name}.{namespace}" for namespace, name in self._services)

    def match(self, host: bytes, raw_path: bytes) -> Match | None:
        """Where a request with this `Host` and path goes; None: no Service answers there."""
        route = self._hosts.get(host)
        if route is None:
            bare = host.lower()
            if bare[-1:] != b"]":
                bare = bare.rpartition(b":")[0] or bare
            route = self._hosts.get(bare.rstrip(b"."))
        if route is not None:
            return Match(route, raw_path, b"")
        parts = raw_path.split(b"/", 3)
        if len(parts) < 3:
            return None
        found = self._services.get((parts[1].decode("latin-1"), parts[2].decode("latin-1")))
        if found is None:
            return None
        rest = b"/" + parts[3] if len(parts) > 3 else b"/"
        return Match(found, rest, b"/" + parts[1] + b"/" + parts[2])


def _hosts(namespace: str, name: str) -> Iterable[bytes]:
    return [f"{name}.{namespace}{suffix}".encode() for suffix in SUFFIXES]


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The `Host` header, empty if there is none."""
    for name, value in headers:
        if name == b"host":
            return value
    return b""


def known_services(names: Sequence[str], limit: int = 20) -> Mapping[str, object]:
    """What a 404 says of the Services that exist."""
    return {"services": list(names[:limit]), "more_services": max(0, len(names) - limit)}
