"""Host names and addresses in `Host` and `Origin`: which of them mean this machine (pure).

A web page of another site can reach servers on the user's machine under a name of its own that resolves to a
loopback address (DNS rebinding). That name is then in `Host`. An IP address there is the one that the browser
connected to, which no page can forge.
"""

from __future__ import annotations

import ipaddress


def host_name(authority: str) -> str:
    """The host of `host`, `host:port`, `[address]` or `[address]:port`, lower case, without a final dot."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower().removesuffix(".")


def is_local_name(name: str) -> bool:
    """Whether a host name means this machine wherever it is looked up (RFC 6761, 6.3)."""
    return name == "localhost" or name.endswith(".localhost")


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether a host is an IP address of the loopback interface."""
    return is_address(address) and ipaddress.ip_address(address).is_loopback
