"""The uvicorn server around an activator."""

from __future__ import annotations

import resource
import socket

import uvicorn

from knative.local.activator.app import Activator
from knative.local.activator.protocol import ActivatorProtocol
from transport.request_head import HeadLimits, with_head_limits

BACKLOG = 4096
GRACE_S = 5
"""Seconds that responses in progress may still take when the server stops."""


class ActivatorServer(uvicorn.Server):
    """uvicorn's server, which answers held requests before it waits for responses in progress."""

    def __init__(self, activator: Activator, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._activator = activator

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: held requests get a 503, responses in progress `GRACE_S` to end."""
        self._activator.stop_holding()
        await super().shutdown(sockets)


def raise_file_limit() -> None:
    """Allow as many open files as the system grants: a held request needs one, a forwarded one two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def server(
    activator: Activator,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    keep_alive_s: int = 60,
    limits: HeadLimits | None = None,
) -> uvicorn.Server:
    """A server, run by `serve()` or `serve(sockets=[...])` and stopped by `should_exit = True`."""
    raise_file_limit()
    config = uvicorn.Config(
        activator,
        host=host,
        port=port,
        loop="uvloop",
        http=with_head_limits(ActivatorProtocol, limits or HeadLimits()),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    return ActivatorServer(activator, config)
