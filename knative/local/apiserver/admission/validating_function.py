"""Validating admission by a function that whoever starts the platform provides, in place of a webhook.

A cluster calls a validating webhook over HTTPS; here its logic is called directly. A function belongs to one
kind, gets each object that a client creates or updates, and answers with errors, which deny the write, and
with warnings, which `kubectl` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from knative.client.errors import Cause
from knative.client.resources import Object, Resource
from knative.local.apiserver import errors
from knative.local.apiserver.errors import ResourceRef


@dataclass(frozen=True, slots=True)
class AdmissionResponse:
    """What a validating function says of an object."""

    errors: Sequence[Cause] = ()
    """What is wrong, with the field at fault if there is one; any error denies the write."""
    warnings: Sequence[str] = ()


ValidatingFunction = Callable[[Object, Object | None], AdmissionResponse]
"""Takes the object and, for an update, the object before it; must change neither."""


class FunctionAdmission:
    """The admission of a kind whose objects a function validates.

    Args:
        resource: the kind.
        validate: the function.
    """

    def __init__(self, resource: Resource, validate: ValidatingFunction) -> None:
        self._resource = resource
        self._validate = validate

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in nothing."""

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Deny what the function finds wrong."""
        response = self._validate(obj, old)
        if response.errors:
            lines = [
                f"{cause.field}: {cause.message}" if cause.field else cause.message
                for cause in response.errors
            ]
            raise errors.denied(
                f"validation.webhook.{self._resource.group}",
                f"validation failed: {'; '.join(lines)}",
                ResourceRef.of(self._resource, str(obj["metadata"].get("name", ""))),
                response.errors,
            )
        return list(response.warnings)
