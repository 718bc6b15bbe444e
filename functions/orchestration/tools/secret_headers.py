"""Header fields whose values are in mounted Secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from functions.auth.secret_folder import SecretFolder
from functions.orchestration.tools.config import SecretHeader
from functions.problems import ProblemError


class SecretHeaders:
    """The fields of one tool, as the Secrets have them now.

    Args:
        tool: its name, for problems.
        headers: the fields, by name.
    """

    def __init__(self, tool: str, headers: Mapping[str, SecretHeader]) -> None:
        self._tool = tool
        folders = {Path(header.file).parent for header in headers.values()}
        self._folders = {folder: SecretFolder(folder) for folder in folders}
        self._headers = dict(headers)

    def current(self) -> dict[str, str]:
        """The fields to send.

        Raises:
            ProblemError: 500; a Secret is missing, or holds what cannot be sent. The value is not shown.
        """
        found = {}
        for name, header in self._headers.items():
            path = Path(header.file)
            secret = self._folders[path.parent].entries().get(path.name, b"").strip()
            if not secret:
                raise ProblemError(
                    500, f"tool {self._tool}: headers.{name}: {path} is missing or empty", retryable=True
                )
            if not secret.isascii() or any(byte < 0x20 or byte == 0x7F for byte in secret):
                raise ProblemError(
                    500, f"tool {self._tool}: headers.{name}: {path} must be one line of ASCII characters"
                )
            found[name] = header.prefix + secret.decode()
        return found
