"""Who sent a request, as a value, and what that caller may use (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

INVOKE: Final = "invoke"
"""Scope: `/invoke` and the API of the engine."""
METRICS: Final = "metrics"
"""Scope: `/metrics` and `/openapi.json` through a gateway."""
USE_BY_KEY: Final = "use by key"
"""The message of the log line with what one caller has used of a replica that ends."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Limits of one caller at one replica; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt and completion together."""
    in_flight: int | None = None
    """Requests that are answered at the same time."""
    tokens_per_day: int | None = None
    """Per day of UTC."""

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return any(
            limit is not None
            for limit in (
                self.requests_per_minute,
                self.tokens_per_minute,
                self.in_flight,
                self.tokens_per_day,
            )
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    name: str
    """Of the key, or of the subject of a token; stands in metrics."""
    kind: Literal["key", "jwt", "stage", "anyone"]
    """`stage`: another stage of the same agent, on behalf of the caller `name`."""
    team: str = ""
    limits: CallerLimits = CallerLimits()


ANYONE = Caller("", "anyone")
"""A caller that nothing was asked of."""


def encode_origin(caller: Caller) -> str:
    """The header's value by which a stage tells the next one for whom it calls: `NAME TEAM`."""
    return f"{caller.name} {caller.team}".strip()


def parse_origin(value: str | None) -> Caller:
    """The caller behind another stage; without a name for a value that is missing or malformed."""
    name, _, team = (value or "").partition(" ")
    if not is_name(name) or (team and not is_name(team)):
        return Caller("", "stage")
    return Caller(name, "stage", team)


def is_name(text: str) -> bool:
    """Whether a text can name a caller or a team."""
    return _NAME.fullmatch(text) is not None
