"""The token that only the stages of one agent hold: a Secret with `current`, and `previous` once rotated."""

from __future__ import annotations

import hmac

from functions.auth.secret_folder import SecretFolder

HEADER = "X-Pilotlight-Stage-Token"
ORIGIN_HEADER = "X-Pilotlight-Caller"
"""For whom a stage calls; read only beside a valid token."""
CURRENT = "current"
PREVIOUS = "previous"
_SHORTEST = 32


class StageToken:
    """The agent's token, as its Secret has it now.

    Args:
        folder: the Secret.
    """

    def __init__(self, folder: SecretFolder) -> None:
        self._folder = folder

    def current(self) -> str | None:
        """The token to send; None while there is none."""
        token = self._folder.entries().get(CURRENT, b"").strip()
        return token.decode("latin-1") if len(token) >= _SHORTEST else None

    def accepts(self, token: bytes) -> bool:
        """Whether another stage sent it: the current one, or the one before."""
        entries = self._folder.entries()
        known = [entries.get(name, b"").strip() for name in (CURRENT, PREVIOUS)]
        # Both are compared, so that the time does not tell which one was nearly right.
        matches = [len(one) >= _SHORTEST and hmac.compare_digest(one, token) for one in known]
        return any(matches)
