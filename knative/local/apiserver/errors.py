"""Errors of the local API with the status, reason and wording of Kubernetes' API server (pure).

After k8s.io/apimachinery, `pkg/api/errors/errors.go`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from knative.client.errors import Cause
from knative.client.resources import Object, Resource


@dataclass(frozen=True, slots=True)
class ResourceRef:
    """Which resource, and which object of it, an error is about."""

    group: str = ""
    plural: str = ""
    name: str = ""
    kind: str = ""

    @classmethod
    def of(cls, resource: Resource, name: str = "") -> ResourceRef:
        """The reference to an object of `resource`."""
        return cls(resource.group, resource.plural, name, resource.kind)

    @property
    def qualified(self) -> str:
        """`plural.group`, as messages name a resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass
class ApiError(Exception):
    """An answer other than success; `status()` is its body."""

    code: int
    reason: str
    message: str
    ref: ResourceRef = field(default_factory=ResourceRef)
    causes: Sequence[Cause] = ()
    retry_after: int | None = None
    """Seconds after which the client may try again."""

    def __str__(self) -> str:
        return self.message

    def status(self) -> Object:
        """The Kubernetes Status object."""
        details: Object = {}
        if self.ref.name:
            details["name"] = self.ref.name
        if self.ref.group:
            details["group"] = self.ref.group
        if self.ref.plural:
            details["kind"] = self.ref.kind or self.ref.plural
        if self.causes:
            details["causes"] = [_cause(cause) for cause in self.causes]
        if self.retry_after is not None:
            details["retryAfterSeconds"] = self.retry_after
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": details,
            "code": self.code,
        }


def _cause(cause: Cause) -> Object:
    fields = {"reason": cause.reason, "message": cause.message, "field": cause.field}
    return {key: value for key, value in fields.items() if value}


def not_found(ref: ResourceRef) -> ApiError:
    """404 for an object."""
    return ApiError(404, "NotFound", f'{ref.qualified} "{ref.name}" not found', ref)


def already_exists(ref: ResourceRef) -> ApiError:
    """409 for a name that is taken."""
    return ApiError(409, "AlreadyExists", f'{ref.qualified} "{ref.name}" already exists', ref)


def conflict(ref: ResourceRef, why: str | None = None) -> ApiError:
    """409 for a resourceVersion that is no longer the newest, or another precondition."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    message = f'Operation cannot be fulfilled on {ref.qualified} "{ref.name}": {why}'
    return ApiError(409, "Conflict", message, ref)


def bad_request(message: str, ref: ResourceRef | None = None) -> ApiError:
    """400 for a request that can't be understood or that an admission webhook denies."""
    return ApiError(400, "BadRequest", message, ref or ResourceRef())


def invalid(ref: ResourceRef, causes: Sequence[Cause]) -> ApiError:
    """422 for an object whose fields are wrong."""
    kind = f"{ref.kind}.{ref.group}" if ref.group else ref.kind
    return _invalid(kind, ref, causes)


def unconditional_update(ref: ResourceRef) -> ApiError:
    """422 for a PUT without a resourceVersion; Kubernetes names the resource in it instead of the kind."""
    text = "Invalid value: 0x0: must be specified for an update"
    cause = Cause(text, "metadata.resourceVersion", "FieldValueInvalid")
    return _invalid(ref.qualified, ref, [cause])


def _invalid(kind: str, ref: ResourceRef, causes: Sequence[Cause]) -> ApiError:
    texts = [f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    return ApiError(422, "Invalid", f'{kind} "{ref.name}" is invalid: {listed}', ref, tuple(causes))


def expired(message: str) -> ApiError:
    """410 for a resourceVersion from before the history that is kept."""
    return ApiError(410, "Expired", message)


def denied(webhook: str, message: str, ref: ResourceRef, causes: Sequence[Cause] = ()) -> ApiError:
    """400 in the words of an admission webhook's denial."""
    text = f'admission webhook "{webhook}" denied the request: {message}'
    return ApiError(400, "BadRequest", text, ref, tuple(causes))
