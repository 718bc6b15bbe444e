"""The cause of a failure as the container's termination message.

Kubernetes and the local platform show this message where a Revision has failed. Without one they show the end
of the log, in which the cause is one of many lines.
"""

import contextlib

from functions.settings import termination_log

MAX_BYTES = 4096
"""Kubernetes' own limit for one container."""


def write(cause: str) -> None:
    """Leave the cause for the platform to show; nothing happens if the file cannot be written."""
    if (path := termination_log()) is not None:
        with contextlib.suppress(OSError):
            path.write_bytes(cause.encode()[:MAX_BYTES])
