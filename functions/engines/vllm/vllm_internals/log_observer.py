"""What vLLM tells only in its log: how long loading took, and why a process failed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from functions.engines.vllm.vllm_internals.command_line import OptionError
from weights.vllm.load_format import LOADED_MESSAGE, LOADER_LOGGER, LOADING_MESSAGE

_LOADED = "Loading weights took"
"""Begins vLLM's message after loading; its first argument is the seconds."""
_PYDANTIC = re.compile(r"^\d+ validation errors? for \w+\s+(?:Value error, )?(.*?)\s*\[type=.*$", re.DOTALL)


class LogObserver:
    """A factory of log records that reports what some of them mean.

    vLLM replaces the handlers of all its loggers when a process starts, but keeps the record factory that it
    finds. The weight loader, which runs inside vLLM's workers, reports through its log as well.

    Args:
        on_loading: a worker begins to read the weights.
        on_loaded: seconds until a worker had its weights.
        on_read: bytes that a worker read from the source and from the cache; called some time after loading.
        on_error: name of the process in which an error was logged, and its cause.
    """

    def __init__(
        self,
        *,
        on_loading: Callable[[], None],
        on_loaded: Callable[[float], None],
        on_read: Callable[[int, int], None],
        on_error: Callable[[str, str], None],
    ) -> None:
        self._on_loading = on_loading
        self._on_loaded = on_loaded
        self._on_read = on_read
        self._on_error = on_error
        self._make_record = logging.getLogRecordFactory()

    def install(self) -> None:
        """Observe every record of this process and of all that are forked from it."""
        logging.getLogger(LOADER_LOGGER).setLevel(logging.INFO)
        logging.setLogRecordFactory(self)

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Make a record, and report what it means."""
        record = self._make_record(*args, **kwargs)
        if record.name.startswith("vllm."):
            self._observe_vllm(record)
        elif record.name == LOADER_LOGGER:
            self._observe_loader(record)
        return record

    def _observe_loader(self, record: logging.LogRecord) -> None:
        if record.msg == LOADING_MESSAGE:
            self._on_loading()
        elif record.msg == LOADED_MESSAGE and isinstance(record.args, tuple):
            _, from_source, from_cache = record.args
            if isinstance(from_source, int) and isinstance(from_cache, int):
                self._on_read(from_source, from_cache)

    def _observe_vllm(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, str) and record.msg.startswith(_LOADED):
            seconds = record.args[0] if isinstance(record.args, tuple) and record.args else None
            if isinstance(seconds, (int, float)):
                self._on_loaded(float(seconds))
        elif record.levelno >= logging.ERROR and record.exc_info and record.exc_info[1] is not None:
            self._on_error(record.processName or "engine", describe(record.exc_info[1]))


def describe(error: BaseException) -> str:
    """One line for a user: the exception's type and message, without the wrapping that vLLM adds."""
    text = str(error)
    if (wrapped := _PYDANTIC.match(text)) is not None:
        return " ".join(wrapped[1].split())
    message = " ".join(text.split())
    if isinstance(error, OptionError):
        return message
    name = type(error).__name__
    return f"{name}: {message}" if message else name
