"""Field errors in the words of knative.dev/pkg, `apis/field_error.go` (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from knative.autoscaling.annotations import FieldError

Errors = Iterator[FieldError]

_MAX_SHOWN = 256
LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""An RFC 1035 label, as the names of Knative's objects and of tags must be."""
NOT_LABEL_1035 = (
    "not a DNS 1035 label: [a DNS-1035 label must consist of lower case alphanumeric characters or '-', "
    "start with an alphabetic character, and end with an alphanumeric character "
    "(e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')]"
)
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""An RFC 1123 label, as names of containers and volumes must be."""


def invalid(value: Any, path: str, details: str = "") -> FieldError:
    """A value that is not allowed."""
    return FieldError(f"invalid value: {shown(value)}", (path,), details)


def missing(*paths: str) -> FieldError:
    """Fields that must be set."""
    return FieldError("missing field(s)", paths)


def disallowed(*paths: str) -> FieldError:
    """Fields that must not be set."""
    return FieldError("must not set the field(s)", paths)


def out_of_bounds(value: int, low: int, high: int, path: str) -> FieldError:
    """A number outside of its range."""
    return FieldError(f"expected {low} <= {value} <= {high}", (path,))


def several_of(*paths: str) -> FieldError:
    """Fields of which only one may be set."""
    return FieldError("expected exactly one, got both", paths)


def none_of(*paths: str) -> FieldError:
    """Fields of which one must be set."""
    return FieldError("expected exactly one, got neither", paths)


def via(path: str, errors: Iterable[FieldError]) -> Errors:
    """The errors with `path` in front of their paths; an index such as `[0]` gets no dot."""
    for error in errors:
        yield FieldError(error.message, tuple(_joined(path, inner) for inner in error.paths), error.details)


def _joined(path: str, inner: str) -> str:
    if not inner:
        return path
    return f"{path}{inner}" if inner.startswith("[") else f"{path}.{inner}"


def shown(value: Any) -> str:
    """A value as Go prints it, cut to a length that fits into a message."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def text(errors: Iterable[FieldError]) -> str:
    """All errors as one text: errors with the same message share a line, and lines are sorted."""
    merged: dict[tuple[str, str], list[str]] = {}
    for error in errors:
        paths = merged.setdefault((error.message, error.details), [])
        paths += [path for path in error.paths if path not in paths]
    lines = [
        str(FieldError(message, tuple(sorted(paths)), details))
        for (message, details), paths in sorted(merged.items())
    ]
    return "\n".join(lines)


def no_downward_api(path: str) -> FieldError:
    """A field of the downward API, which this platform does not have."""
    return FieldError("must not set the field(s)", (path,), "this platform has no downward API")
