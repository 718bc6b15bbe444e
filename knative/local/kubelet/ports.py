"""Ports for pods, from a range that outgoing connections do not use."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 20_000, 32_000
"""Below Linux's default range for outgoing connections (32768 and up), which could take one at any time."""


class NoFreePort(Exception):  # noqa: N818  # a state of the machine, which has its own handling
    """Every port of the range is in use."""


class PortAllocator:
    """Gives each pod a port of its own."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._taken: set[int] = set()

    def take(self) -> int:
        """A free port.

        Raises:
            NoFreePort: there is none.
        """
        for port in random.sample(range(FIRST, LAST), LAST - FIRST):
            if port not in self._taken and self._is_free(port):
                self._taken.add(port)
                return port
        raise NoFreePort(f"no free port between {FIRST} and {LAST}")

    def release(self, port: int) -> None:
        """Give a port back."""
        self._taken.discard(port)

    def _is_free(self, port: int) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, port))
            except OSError:
                return False
        return True
