"""Observe, decide, actuate: level-triggered."""

from warmpool.controller.runner import Controller, TickReport
from warmpool.controller.settings import Settings

__all__ = ["Controller", "Settings", "TickReport"]
