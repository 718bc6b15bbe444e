"""The sockets on which gateway and API listen."""

from __future__ import annotations

import socket

from knative.local.platform.config import LOOPBACK, PlatformError

LOOPBACK_IPV6 = "::1"
_ATTEMPTS = 20
"""How many free ports are tried until one is free on both addresses."""


def listen(host: str, port: int, server: str) -> list[socket.socket]:
    """Bind a port, for the loopback address on IPv4 and, where the machine has it, on IPv6.

    Clients resolve `localhost` to either.

    Args:
        host: the address.
        port: 0 picks a free one.
        server: `gateway` or `API`, for the error.

    Raises:
        PlatformError: another program uses the port, or the address is not the machine's.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        first = _bind(host, port, server)
        if host != LOOPBACK or not has_ipv6():
            return [first]
        try:
            return [first, _bind(LOOPBACK_IPV6, first.getsockname()[1], server)]
        except PlatformError:
            first.close()
            if port or attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def has_ipv6() -> bool:
    """Whether the machine has an IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((LOOPBACK_IPV6, 0))
    except OSError:
        return False
    return True


def _bind(host: str, port: int, server: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio disables Nagle's algorithm on connections; without it, it does not.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as problem:
        listener.close()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise PlatformError(
            f"cannot listen on {where} for the {server}: {problem.strerror}; "
            f"end the program that uses it, or choose another {server} port (0 picks a free one)"
        ) from problem
    return listener
