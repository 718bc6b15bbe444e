"""The activator: the one door for requests, which holds them while a Service has no replica.

Its owner tells it what exists (`set_service`, `set_revision`, `set_endpoints`); it tells the autoscaler
what is asked for (`on_stats`). `server` makes the uvicorn server that it needs:

    activator = Activator(on_stats=autoscaler.record, clock=time.monotonic)
    await server(activator, host="127.0.0.1", port=8080).serve()
"""

from knative.local.activator.app import Activator
from knative.local.activator.server import server

__all__ = ["Activator", "server"]
