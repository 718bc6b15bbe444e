"""The key of which the secret of each Service is derived."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from warmpool.domain.spec_errors import SpecError

SHORTEST: Final = 16
"""Characters; a shorter key could be guessed from one of the secrets."""


def read_admin_key(path: Path) -> str:
    """The key in a file, without surrounding white space.

    Raises:
        SpecError: it is too short.
        OSError: the file cannot be read.
    """
    key = path.read_text().strip()
    if len(key) < SHORTEST:
        raise SpecError([f"{path} has {len(key)} characters, must be a random key of at least {SHORTEST}"])
    return key
