"""A route of the framework whose work ends with its request: at the deadline, at a disconnect, at a drain.

router = APIRouter(route_class=BoundedRoute)
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from functions.http.request_state import state_of
from functions.http.work_scope import WorkScope


class BoundedRoute(APIRoute):
    """Runs the handler within a `WorkScope`; leaving that early becomes an error of the application."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, bounded."""
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            state = state_of(request.scope)
            await request.body()  # kept by the request, so that the scope alone listens for the client
            async with WorkScope(request.receive, state.context, state.active):
                return await handler(request)

        return bounded
