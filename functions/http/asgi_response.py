"""A response of the framework's that is an ASGI application of its own."""

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class AsgiResponse(Response):
    """Hands the connection to an application, which reads the body and answers by itself."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await self._app(scope, receive, send)
