"""What `RequestMiddleware` knows about a request, for the applications behind it."""

from dataclasses import dataclass

from starlette.types import Scope

from functions.http.work_scope import ActiveWork
from functions.stage import RequestContext

_KEY = "pilotlight"


@dataclass(slots=True)
class RequestState:
    """Found in the ASGI scope by `state_of`."""

    context: RequestContext
    active: ActiveWork
    """All requests that the replica works on."""
    body: bytes = b""
    """The whole body, within the limits of size and time."""
    progress_off: bool = False
    """The client asks for no comments while it waits."""

    def attach(self, scope: Scope) -> None:
        """Put it into a request's scope."""
        scope.setdefault("state", {})[_KEY] = self


def state_of(scope: Scope) -> RequestState:
    """The state of a request that came through `RequestMiddleware`."""
    state = scope["state"][_KEY]
    assert isinstance(state, RequestState)
    return state
