"""What can be wrong with what a user gives an experiment."""

from __future__ import annotations


class TraceError(ValueError):
    """A trace file cannot be used; the text names the file, the line, the value, and what would be right."""


class ExperimentError(ValueError):
    """An experiment cannot be run as it was described; `str()` has one line for each problem."""
