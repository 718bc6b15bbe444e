"""URLs of Services that work from where they are printed."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_LOCAL = ".localhost"


def reachable_url(service: Mapping[str, Any]) -> str | None:
    """A Service's URL; None if it has none yet.

    `NAME.NAMESPACE.localhost` needs a resolver that knows names below `localhost`, which many programs and
    slim containers do not have; the path form of the same gateway needs none.
    """
    url = (service.get("status") or {}).get("url")
    if not url:
        return None
    parts = urlsplit(url)
    if not (parts.hostname or "").endswith(_LOCAL):
        return str(url)
    port = f":{parts.port}" if parts.port else ""
    meta = service["metadata"]
    return f"{parts.scheme}://localhost{port}/{meta['namespace']}/{meta['name']}/"
