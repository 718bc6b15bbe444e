"""What an object must satisfy before it is stored: schema, rules, admission and identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from knative.client.resources import Object, Resource
from knative.local.apiserver import errors, metadata
from knative.local.apiserver.errors import ResourceRef
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.records import Key
from knative.local.apiserver.schemas import cel_rules, structural

FieldValidation = Literal["Strict", "Warn", "Ignore"]
"""What happens to unknown and duplicate fields: 400, a warning, or nothing."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a write is to be done."""

    manager: str = "unknown"
    """The field manager."""
    operation: Literal["Apply", "Update"] = "Update"
    dry_run: bool = False
    field_validation: FieldValidation = "Warn"
    trusted: bool = False
    """Whether the platform itself writes: without validation and admission."""


PLATFORM_WRITE = WriteOptions(manager="controller", trusted=True)


class Admission(Protocol):
    """Defaults and checks of one kind, as admission webhooks make them on a cluster."""

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in, in place, what the user left out; `old` is the object before an update."""

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Return warnings, or deny with an `ApiError`."""


class ObjectValidator:
    """Validates what is about to be written; the platform's own writes are trusted.

    Args:
        admissions: what is checked beside the schema, by kind.
    """

    def __init__(self, admissions: Mapping[Resource, Admission]) -> None:
        self._admissions = admissions

    def prepare(self, info: KindInfo, obj: Object, options: WriteOptions) -> list[str]:
        """Field validation, pruning, schema defaults, types and CEL rules, in place; returns warnings.

        Raises:
            ApiError: the object is of another kind, or invalid, or has unknown fields and may not.
        """
        if options.trusted:
            return []
        res = info.resource
        obj.setdefault("apiVersion", res.api_version)
        obj.setdefault("kind", res.kind)
        ref = ResourceRef.of(res, str(obj["metadata"].get("name", "")))
        if obj["apiVersion"] != res.api_version or obj["kind"] != res.kind:
            raise errors.bad_request(
                f"the object provided ({obj['apiVersion']}, {obj['kind']}) is not a "
                f"{res.api_version} {res.kind}",
                ref,
            )
        structural.drop_nulls(info.schema, obj)
        warnings: list[str] = []
        if options.field_validation != "Ignore":
            unknown = [f'unknown field "{path}"' for path in structural.unknown_fields(info.schema, obj)]
            if unknown and options.field_validation == "Strict":
                raise errors.bad_request(
                    f'{res.kind} in version "{res.version}" cannot be handled as a {res.kind}: '
                    f"strict decoding error: {', '.join(unknown)}",
                    ref,
                )
            warnings = unknown
        structural.prune(info.schema, obj)
        structural.fill_defaults(info.schema, obj)
        causes = [*metadata.violations(obj["metadata"]), *structural.violations(info.schema, obj)]
        if info.has_rules:
            if cel_rules.blocked(causes):
                causes.append(cel_rules.UNCHECKED)
            else:
                causes += cel_rules.violations(info.schema, obj)
        if causes:
            raise errors.invalid(ref, causes)
        return warnings

    def default(
        self, info: KindInfo, obj: Object, old: Object | None, options: WriteOptions, *, custom: bool
    ) -> None:
        """Fill in what was left out, in place, if the kind is a custom one or not, as `custom` says.

        Kubernetes fills in its own kinds before it records who owns which field, so that a default belongs
        to the manager who left the field out. For custom kinds a webhook does so afterwards, and nobody owns
        its values.
        """
        admission = self._admissions.get(info.resource)
        if admission is not None and not options.trusted and info.custom is custom:
            admission.default(obj, old)

    def check(self, info: KindInfo, obj: Object, old: Object | None, options: WriteOptions) -> list[str]:
        """Validating admission; returns warnings.

        Raises:
            ApiError: the object is denied.
        """
        admission = self._admissions.get(info.resource)
        return [] if admission is None or options.trusted else admission.check(obj, old)


def check_identity(key: Key, obj: Object) -> None:
    """Compare name and namespace of an object with its key, and check that the name may be one.

    Raises:
        ApiError: they differ, or the name is invalid.
    """
    meta, ref = obj["metadata"], ResourceRef.of(key.resource, key.name)
    if meta.get("name", key.name) != key.name:
        raise errors.bad_request(
            f"the name of the object ({meta['name']}) does not match the name on the URL ({key.name})", ref
        )
    meta["name"] = key.name
    if (meta.get("namespace") or key.namespace) != key.namespace:
        raise errors.bad_request(
            f"the namespace of the object ({meta['namespace']}) does not match the namespace on the "
            f"request ({key.namespace})",
            ref,
        )
    violation = metadata.name_violation(key.resource, key.name)
    if violation is not None:
        raise errors.invalid(ref, [violation])
