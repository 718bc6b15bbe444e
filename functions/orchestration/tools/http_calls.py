"""Who calls a tool, over what: what function tools and MCP servers share of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from functions.auth import stage_token
from functions.auth.caller import encode_origin
from functions.auth.stage_token import StageToken
from functions.calls.port import ObserveCall
from functions.calls.retries import CallPolicy
from functions.orchestration.tools.config import CommonToolConfig
from functions.orchestration.tools.secret_headers import SecretHeaders
from functions.problems import ProblemError
from functions.stage import RequestContext

log = logging.getLogger(__name__)

WAKE_SECONDS = 120.0
"""How long a start is waited for in the background."""
AWAKE_SECONDS = 10.0
"""After its last answer a tool counts as awake for so long."""
ANSWER_SECONDS = 0.05
"""A call ends so long before its request's deadline, which leaves time to say what was late."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What all calls of an agent's tools have in common.

    Attributes:
        session: of the orchestrate stage.
        gateway: connect there to reach the agent's own Services; None: connect to them.
        policy: retries.
        observe: called after each attempt.
        stage_token: of the agent's stages.
    """

    session: aiohttp.ClientSession
    gateway: str | None
    policy: CallPolicy
    observe: ObserveCall
    stage_token: StageToken | None = None


class Destination:
    """Where a tool is, and what each call of it carries.

    Args:
        name: of the tool.
        config: of the tool.
        caller: of all tools.
    """

    def __init__(self, name: str, config: CommonToolConfig, caller: Caller) -> None:
        self._config = config
        self._caller = caller
        self._secrets = SecretHeaders(name, config.headers)
        self._name = name
        parts = urlsplit(config.url)
        through = caller.gateway if config.service else None
        self.origin = (through or f"{parts.scheme}://{parts.netloc}").rstrip("/")
        self.url = self.origin + (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._host = {} if through is None else {"Host": parts.netloc}
        self._answered: float | None = None
        self._waking: asyncio.Task[None] | None = None

    def headers(self, context: RequestContext, traceparent: str | None = None) -> dict[str, str]:
        """The fields of a call. Only the agent's own Services learn who asks, and until when.

        Raises:
            ProblemError: a Secret is missing.
        """
        secret = self._secrets.current()
        trace = {"traceparent": traceparent or context.traceparent}
        if not self._config.service:
            return {**trace, **secret}
        own = {**context.headers(), **trace, **self._host, "X-Pilotlight-Progress": "off"}
        token = None if self._caller.stage_token is None else self._caller.stage_token.current()
        if token is not None:
            own[stage_token.HEADER] = token
            if context.caller.name:
                own[stage_token.ORIGIN_HEADER] = encode_origin(context.caller)
        return {**own, **secret}

    def answered(self) -> None:
        """It has answered just now."""
        self._answered = time.monotonic()

    def wake(self, context: RequestContext) -> None:
        """Ask for its readiness in the background; nothing happens while it is known to be awake."""
        fresh = self._answered is not None and time.monotonic() - self._answered <= AWAKE_SECONDS
        if not fresh and (self._waking is None or self._waking.done()):
            with contextlib.suppress(ProblemError):  # the call itself says what is missing
                self._waking = asyncio.create_task(self._wake(self.headers(context)))

    async def close(self) -> None:
        """End what runs in the background."""
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.wait({self._waking})

    async def _wake(self, headers: dict[str, str]) -> None:
        try:
            async with (
                asyncio.timeout(WAKE_SECONDS),
                self._caller.session.get(
                    f"{self.origin}/healthz/ready", headers=headers, allow_redirects=False
                ) as response,
            ):
                # Any answer but a proxy's own says that a replica is there, which may have no such probe.
                if response.status < 500:
                    self.answered()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.debug("wake failed", extra={"target": self._name, "reason": str(error)})


class DeadlinePassedError(ProblemError):
    """The deadline of the request itself, not the tool's own time."""

    def __init__(self, tool: str) -> None:
        super().__init__(
            504, f"tool {tool} did not answer before the deadline", title="Deadline passed", stage=tool
        )


@contextlib.asynccontextmanager
async def in_time(name: str, seconds: float, context: RequestContext) -> AsyncIterator[None]:
    """Ends a call with its own time, or shortly before its request's deadline.

    Raises:
        TimeoutError: its own time.
        DeadlinePassedError: the request's deadline.
    """
    left = context.remaining()
    left = None if left is None else max(0.0, left - ANSWER_SECONDS)
    try:
        async with asyncio.timeout(seconds if left is None else min(seconds, left)):
            yield
    except TimeoutError:
        if left is None or seconds < left:
            raise
        raise DeadlinePassedError(name) from None
