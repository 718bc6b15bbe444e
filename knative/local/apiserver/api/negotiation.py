"""Which form of an object an Accept header asks for: the object itself, or the rows of a Table."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from knative.local.apiserver.errors import ApiError


class Form(StrEnum):
    """What an answer consists of."""

    OBJECT = "Object"
    TABLE = "Table"
    """Of `meta.k8s.io/v1`; what `kubectl get` prints."""


_JSON = frozenset({"application/json", "application/*", "*/*"})


def accepted_form(accept: str) -> Form:
    """The first form of an Accept header that can be given.

    Raises:
        ApiError: 406, there is none.
    """
    for media_type, parameters in _media_ranges(accept if accept.strip() else "*/*"):
        if media_type not in _JSON:
            continue
        if "as" not in parameters:
            return Form.OBJECT
        if (parameters["as"], parameters.get("g"), parameters.get("v")) == ("Table", "meta.k8s.io", "v1"):
            return Form.TABLE
    raise ApiError(406, "NotAcceptable", "only the following media types are accepted: application/json")


def _media_ranges(accept: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The media ranges of an Accept header with their parameters, in its order."""
    for item in accept.split(","):
        media_type, *parameters = (word.strip() for word in item.split(";"))
        yield media_type, dict(word.partition("=")[::2] for word in parameters)
