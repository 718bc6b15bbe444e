"""Field errors as Knative words them (knative.dev/pkg/apis/field_error.go), and paths to put before them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from knative.autoscaling.annotations import FieldError

Errors = Iterator[FieldError]


def invalid(value: Any, path: str, details: str = "") -> FieldError:
    """The value isn't one of those allowed."""
    return FieldError(f"invalid value: {shown(value)}", (path,), details)


def missing(*paths: str) -> FieldError:
    """A field has to be there."""
    return FieldError("missing field(s)", paths)


def disallowed(*paths: str) -> FieldError:
    """A field must not be there."""
    return FieldError("must not set the field(s)", paths)


def out_of_bounds(value: int, low: int, high: int, path: str) -> FieldError:
    """A number is outside of its range."""
    return FieldError(f"expected {low} <= {value} <= {high}", (path,))


def several_of(*paths: str) -> FieldError:
    """Only one of these may be there."""
    return FieldError("expected exactly one, got both", paths)


def none_of(*paths: str) -> FieldError:
    """One of these has to be there."""
    return FieldError("expected exactly one, got neither", paths)


def via(path: str, errors: Iterable[FieldError]) -> Errors:
    """The errors with `path` before theirs; an index such as `[0]` needs no dot."""
    for error in errors:
        yield FieldError(error.message, tuple(_joined(path, inner) for inner in error.paths), error.details)


def _joined(path: str, inner: str) -> str:
    if not inner:
        return path
    return f"{path}{inner}" if inner.startswith("[") else f"{path}.{inner}"


def shown(value: Any) -> str:
    """A value as Go prints it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def text(errors: Iterable[FieldError]) -> str:
    """All errors as one text: equal messages share a line, lines are sorted."""
    merged: dict[tuple[str, str], list[str]] = {}
    for error in errors:
        paths = merged.setdefault((error.message, error.details), [])
        paths += [path for path in error.paths if path not in paths]
    lines = [
        str(FieldError(message, tuple(sorted(paths)), details))
        for (message, details), paths in sorted(merged.items())
    ]
    return "\n".join(lines)
