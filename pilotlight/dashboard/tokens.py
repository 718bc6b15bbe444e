"""Where the dashboard's tokens come from: a file of this machine's platform, or of a Secret on a cluster."""

import contextlib
import os
import secrets
from pathlib import Path

SHORTEST = 16


def kept_token(path: Path) -> str:
    """The token in a file that only its owner can read; it is made with the first use.

    Raises:
        OSError: the file can be neither read nor made.
    """
    with contextlib.suppress(FileExistsError):
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(made, "w") as file:
            file.write(secrets.token_urlsafe(32))
    token = path.read_text().strip()
    if len(token) < SHORTEST:  # of a platform that was killed while it wrote
        path.unlink()
        return kept_token(path)
    return token


def read_token(path: Path) -> str | None:
    """The token in a file of a Secret, read at every use, as it may be rotated; None: there is none now."""
    try:
        token = path.read_text().strip()
    except OSError:
        return None
    return token if len(token) >= SHORTEST else None
