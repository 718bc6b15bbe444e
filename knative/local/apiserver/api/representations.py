"""In which form a client wants to see objects: whole, as the rows of a Table, or their metadata only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from knative.client.resources import Object
from knative.local.apiserver import errors
from knative.local.apiserver.store import Record


class Form(StrEnum):
    """What an answer consists of."""

    OBJECT = "Object"
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"


@dataclass(frozen=True, slots=True)
class Representation:
    """One form, in a version of `meta.k8s.io`."""

    form: Form
    version: str = "v1"


_JSON = frozenset({"application/json", "application/*", "*/*"})
_FORMS = {
    None: Form.OBJECT,
    "Table": Form.TABLE,
    "PartialObjectMetadata": Form.METADATA,
    "PartialObjectMetadataList": Form.METADATA,
}


def media_ranges(accept: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The media types of an Accept header with their parameters, in its order."""
    for item in accept.split(","):
        kind, *parameters = (word.strip() for word in item.split(";"))
        yield kind, dict(word.partition("=")[::2] for word in parameters)


def wanted(accept: str) -> Representation:
    """The first form that an Accept header asks for and that there is.

    Raises:
        ApiError: 406, nothing that it asks for can be given.
    """
    for kind, asked in media_ranges(accept if accept.strip() else "*/*"):
        form = _FORMS.get(asked.get("as"))
        if kind not in _JSON or form is None:
            continue
        if form is Form.OBJECT:
            return Representation(form)
        if asked.get("g") == "meta.k8s.io" and asked.get("v") in ("v1", "v1beta1"):
            return Representation(form, asked["v"])
    raise errors.ApiError(
        406, "NotAcceptable", "only the following media types are accepted: application/json"
    )


def partial(record: Record, version: str) -> Object:
    """An object's metadata without the object."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": record.obj["metadata"],
    }
