"""The dashboard alone, for a cluster: it shows, and changes nothing."""

from collections.abc import Collection, Mapping
from pathlib import Path

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from knative.client.cluster import Cluster
from pilotlight.dashboard.app import Dashboard, Right
from pilotlight.dashboard.gather import Gatherer
from pilotlight.dashboard.tokens import read_token
from transport.request_head import HeadLimitedProtocol, HeadLimits, with_head_limits


class _WithHealth:
    """The dashboard, and health for the kubelet, which has no token and comes under the pod's address."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in {"/healthz/live", "/healthz/ready"}:
            await PlainTextResponse("ok")(scope, receive, send)
        else:
            await self._dashboard(scope, receive, send)


async def serve(
    cluster: Cluster,
    token_file: Path,
    *,
    host: str,
    port: int,
    namespace: str | None = None,
    hosts: Collection[str] = (),
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        cluster: the API.
        token_file: of the Secret; read at every request.
        host: address to listen on.
        port: its port.
        namespace: the one to show; None: all.
        hosts: further host names under which it answers.
    """

    def tokens() -> Mapping[str, Right]:
        token = read_token(token_file)
        return {} if token is None else {token: "read"}

    gatherer = Gatherer(cluster, None, namespace)
    app = _WithHealth(Dashboard(gatherer, tokens, hosts=hosts))
    protocol = with_head_limits(HeadLimitedProtocol, HeadLimits())
    config = uvicorn.Config(
        app, host=host, port=port, http=protocol, ws="none", lifespan="off", log_level="warning",
        access_log=False, server_header=False, proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    async with gatherer.running():
        await uvicorn.Server(config).serve()
