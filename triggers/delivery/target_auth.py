"""How a dispatcher shows the target who it is: a token in a file, read again when the file changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from triggers.sources.credentials import SECRETS_FOLDER, SECRETS_VARIABLE
from triggers.spec.trigger import TargetAuth

STAGE_TOKEN_HEADER: Final = "X-Pilotlight-Stage-Token"  # noqa: S105 - a name
_STAGE_TOKEN_KEY: Final = "current"  # noqa: S105 - a name
_BEARER_KEY: Final = "token"


class TargetCredential:
    """The header that identifies the dispatcher."""

    def __init__(self, file: Path, *, stage_token: bool = False) -> None:
        """`stage_token`: it is that of an agent's stages, else a bearer token or key."""
        self.file = file
        self._stage_token = stage_token
        self._read: tuple[int, str] | None = None

    @classmethod
    def of_secret(cls, auth: TargetAuth, environment: Mapping[str, str]) -> TargetCredential:
        """From the mounted Secret that a Trigger names."""
        folder = Path(environment.get(SECRETS_VARIABLE) or SECRETS_FOLDER)
        if auth.stage_token is not None:
            return cls(folder / auth.stage_token / _STAGE_TOKEN_KEY, stage_token=True)
        return cls(folder / str(auth.bearer) / _BEARER_KEY)

    def headers(self) -> dict[str, str] | None:
        """What a request carries now; None while there is no token: nobody should send without."""
        try:
            changed = self.file.stat().st_mtime_ns
            if self._read is None or self._read[0] != changed:
                self._read = (changed, self.file.read_text().strip())
        except (OSError, UnicodeDecodeError):
            return None
        token = self._read[1]
        if not token:
            return None
        return {STAGE_TOKEN_HEADER: token} if self._stage_token else {"Authorization": f"Bearer {token}"}
