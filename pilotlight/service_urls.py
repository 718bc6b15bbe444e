"""URLs of Services that work from where they are printed."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_LOCAL = ".localhost"
_CLUSTER = ".svc.cluster.local"


def reachable_url(service: Mapping[str, Any], gateway: str | None = None) -> str | None:
    """A Service's URL; None if it has none yet.

    `NAME.NAMESPACE.localhost` needs a resolver that knows names below `localhost`, which many programs and
    slim containers do not have; the path form of the same gateway needs none.

    Args:
        service: the Service.
        gateway: the gateway of the platform on this machine, where that is what the Service runs on: it also
            answers for Services that are private to a cluster.
    """
    url = (service.get("status") or {}).get("url")
    if not url:
        return None
    parts = urlsplit(url)
    host = parts.hostname or ""
    if gateway is not None and host.endswith(_CLUSTER):
        parts = urlsplit(gateway)
    elif not host.endswith(_LOCAL):
        return str(url)
    port = f":{parts.port}" if parts.port else ""
    meta = service["metadata"]
    return f"{parts.scheme}://localhost{port}/{meta['namespace']}/{meta['name']}/"
