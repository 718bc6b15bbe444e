"""Logs on standard error: one JSON object a line on a cluster, plain lines in a terminal."""

from __future__ import annotations

import logging
from typing import Final, Literal

from pythonjsonlogger.json import JsonFormatter

_QUIET: Final = ("apscheduler", "httpx", "httpx2", "httpcore", "httpcore2")
"""Libraries whose informational lines report every request or job."""


def set_up(style: Literal["json", "text"], level: int = logging.INFO) -> None:
    """Send every log record to standard error, in the same fields as the stages' logs."""
    handler = logging.StreamHandler()
    if style == "json":
        handler.setFormatter(
            JsonFormatter(
                ["levelname", "name", "message"],
                timestamp="time",
                rename_fields={"levelname": "level", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
