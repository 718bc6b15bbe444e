"""Logs as JSON lines on standard error, so that a cluster's collector needs no parser."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from functions.settings import FunctionSettings


def configure(settings: FunctionSettings) -> None:
    """Send all logging of the process to standard error as JSON."""
    formatter = JsonFormatter(
        ["levelname", "name", "message"],
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger"},
        static_fields={
            key: value
            for key, value in {"service": settings.service, "revision": settings.revision}.items()
            if value is not None
        },
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    # uvicorn's lines at start and stop repeat what this package logs.
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
