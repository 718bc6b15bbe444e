"""What an object must be before it is stored: of its kind, valid, named; and what is filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from knative.client.resources import Object, Resource
from knative.local.apiserver import errors, metadata
from knative.local.apiserver.errors import ResourceRef
from knative.local.apiserver.kinds import KindInfo
from knative.local.apiserver.schemas import cel_rules, structural
from knative.local.apiserver.store import Key

Validation = Literal["Strict", "Warn", "Ignore"]


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a write was asked for."""

    manager: str = "unknown"
    operation: Literal["Apply", "Update"] = "Update"
    dry_run: bool = False
    validation: Validation = "Warn"
    trusted: bool = False
    """The platform's own write: no admission, no field validation."""


PLATFORM_WRITE = WriteOptions(manager="controller", trusted=True)


class Admission(Protocol):
    """What a kind's owner wants of its objects before they are stored."""

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in what the user left out, in place."""

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Refuse with an `ApiError`, or return warnings."""


class ObjectValidator:
    """Examines what is about to be written; the platform's own writes are trusted.

    Args:
        admissions: what is checked besides the schema, by kind.
    """

    def __init__(self, admissions: Mapping[Resource, Admission]) -> None:
        self._admissions = admissions

    def clean(self, info: KindInfo, obj: Object, options: WriteOptions) -> list[str]:
        """Field validation, pruning, defaults and types of the schema; returns warnings.

        Raises:
            ApiError: the object is another kind's or invalid, or has unknown fields and that is not allowed.
        """
        if options.trusted:
            return []
        res = info.resource
        obj.setdefault("apiVersion", res.api_version)
        obj.setdefault("kind", res.kind)
        subject = ResourceRef(res.group, res.plural, str(obj["metadata"].get("name", "")), res.kind)
        if obj["apiVersion"] != res.api_version or obj["kind"] != res.kind:
            raise errors.bad_request(
                f"the object provided ({obj['apiVersion']}, {obj['kind']}) is not a "
                f"{res.api_version} {res.kind}",
                subject,
            )
        structural.drop_nulls(info.schema, obj)
        warnings: list[str] = []
        if options.validation != "Ignore":
            unknown = [f'unknown field "{path}"' for path in structural.unknown_fields(info.schema, obj)]
            if unknown and options.validation == "Strict":
                raise errors.bad_request(
                    f'{res.kind} in version "{res.version}" cannot be handled as a {res.kind}: '
                    f"strict decoding error: {', '.join(unknown)}",
                    subject,
                )
            warnings = unknown
        structural.prune(info.schema, obj)
        structural.fill_defaults(info.schema, obj)
        causes = [*metadata.faults(obj["metadata"]), *structural.violations(info.schema, obj)]
        if info.has_rules:
            causes += (
                [cel_rules.UNCHECKED] if cel_rules.blocked(causes) else cel_rules.violations(info.schema, obj)
            )
        if causes:
            raise errors.invalid(subject, causes)
        return warnings

    def fill_in(
        self, info: KindInfo, obj: Object, old: Object | None, options: WriteOptions, *, custom: bool
    ) -> None:
        """Fill in what was left out.

        Kubernetes does so for its own kinds before it notes who owns which field, so that a default belongs
        to who left the field out; a webhook does it for custom kinds later, and its values belong to nobody.
        """
        admission = self._admissions.get(info.resource)
        if admission is not None and not options.trusted and info.custom is custom:
            admission.default(obj, old)

    def check(self, info: KindInfo, obj: Object, old: Object | None, options: WriteOptions) -> list[str]:
        """What the kind's owner wants; returns warnings.

        Raises:
            ApiError: the object is refused.
        """
        admission = self._admissions.get(info.resource)
        return [] if admission is None or options.trusted else admission.check(obj, old)


def check_identity(key: Key, obj: Object, subject: ResourceRef) -> None:
    """Name and namespace agree with the address, and the name is one.

    Raises:
        ApiError: they don't.
    """
    meta = obj["metadata"]
    if meta.get("name", key.name) != key.name:
        raise errors.bad_request(
            f"the name of the object ({meta['name']}) does not match the name on the URL ({key.name})",
            subject,
        )
    meta["name"] = key.name
    if (meta.get("namespace") or key.namespace) != key.namespace:
        raise errors.bad_request(
            f"the namespace of the object ({meta['namespace']}) does not match the namespace on the "
            f"request ({key.namespace})",
            subject,
        )
    fault = metadata.name_fault(key.resource, key.name)
    if fault is not None:
        raise errors.invalid(subject, [fault])
