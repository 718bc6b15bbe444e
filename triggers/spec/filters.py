"""Filters on the attributes of CloudEvents, in the dialects of the CloudEvents Subscriptions API (pure).

https://github.com/cloudevents/spec/blob/main/subscriptions/spec.md; Knative's Trigger has the same ones. An
attribute that the event does not have matches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from triggers.spec.field_types import SpecModel

MAX_DEPTH: Final = 5
"""Levels of `all`, `any` and `not`."""


def _attributes(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not (name.isascii() and name.isalnum() and name == name.lower()):
            raise ValueError(
                f"must have CloudEvents attributes as keys, lower-case letters and digits, not {name!r}"
            )
    return value


Conditions = Annotated[dict[str, str], Field(min_length=1, max_length=32), AfterValidator(_attributes)]


class Filter(SpecModel):
    """One expression: exactly one of its fields is set."""

    exact: Conditions | None = None
    """Attributes that must have exactly these values."""
    prefix: Conditions | None = None
    """Attributes that must begin with these values."""
    suffix: Conditions | None = None
    """Attributes that must end with these values."""
    all: Annotated[tuple[Filter, ...], Field(strict=False, min_length=1, max_length=32)] | None = None
    """Expressions that must all match."""
    any: Annotated[tuple[Filter, ...], Field(strict=False, min_length=1, max_length=32)] | None = None
    """Expressions of which one must match."""
    not_: Filter | None = Field(default=None, alias="not")
    """An expression that must not match."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("must have exactly one of exact, prefix, suffix, all, any, not")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"must nest all, any and not at most {MAX_DEPTH} deep")
        return self

    @property
    def depth(self) -> int:
        """Levels of expressions in it."""
        inner = (*(self.all or ()), *(self.any or ()), *([self.not_] if self.not_ else []))
        return 1 + max((one.depth for one in inner), default=0)


def matches(filters: Sequence[Filter], attributes: Mapping[str, str]) -> bool:
    """Whether an event with these attributes passes every filter; no filter lets all pass."""
    return all(_matches(one, attributes) for one in filters)


def _matches(one: Filter, attributes: Mapping[str, str]) -> bool:
    tests: tuple[tuple[dict[str, str] | None, Callable[[str, str], bool]], ...] = (
        (one.exact, str.__eq__),
        (one.prefix, str.startswith),
        (one.suffix, str.endswith),
    )
    for conditions, test in tests:
        if conditions is not None:
            return all(
                name in attributes and test(attributes[name], value) for name, value in conditions.items()
            )
    if one.all is not None:
        return all(_matches(inner, attributes) for inner in one.all)
    if one.any is not None:
        return any(_matches(inner, attributes) for inner in one.any)
    return one.not_ is not None and not _matches(one.not_, attributes)
