"""The activator: the gateway for all requests, which holds them while a Service has no replica.

The controllers tell it what exists (`set_service`, `set_revision`, `set_endpoints`); it reports concurrency
and requests to the autoscaler (`on_stats`). `server` makes the uvicorn server that it needs:

    activator = Activator(on_stats=autoscaler.record, clock=time.monotonic)
    await server(activator, host="127.0.0.1", port=8080).serve()
"""

from knative.local.activator.app import Activator
from knative.local.activator.server import server

__all__ = ["Activator", "server"]
