"""Whether a server is reached through a proxy, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL, without its credentials; None: none."""
    parts = urlsplit(url)
    found = getproxies().get(parts.scheme) or getproxies().get("all")
    if not found or not parts.hostname or proxy_bypass(parts.hostname):
        return None
    proxy = urlsplit(found)
    if not proxy.hostname:
        return found
    port = f":{proxy.port}" if proxy.port else ""
    return f"{proxy.scheme}://{proxy.hostname}{port}"
