"""What the local API refuses, in Kubernetes' words: status, reason, message and the fields at fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from knative.client.errors import Cause
from knative.client.resources import Object


@dataclass(frozen=True, slots=True)
class ResourceRef:
    """Which object an error is about, as `details` of a Status names it."""

    group: str = ""
    plural: str = ""
    name: str = ""
    kind: str = ""

    @property
    def qualified(self) -> str:
        """`plural.group`, as messages name a kind."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass
class ApiError(Exception):
    """An answer other than success; `status()` is its body."""

    code: int
    reason: str
    message: str
    subject: ResourceRef = field(default_factory=ResourceRef)
    causes: Sequence[Cause] = ()
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.message

    def status(self) -> Object:
        """The Kubernetes Status object."""
        details: Object = {}
        if self.subject.name:
            details["name"] = self.subject.name
        if self.subject.group:
            details["group"] = self.subject.group
        if self.subject.plural:
            details["kind"] = self.subject.kind or self.subject.plural
        if self.causes:
            details["causes"] = [
                {
                    key: value
                    for key, value in (
                        ("reason", cause.reason),
                        ("message", cause.message),
                        ("field", cause.field),
                    )
                    if value
                }
                for cause in self.causes
            ]
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


def not_found(subject: ResourceRef) -> ApiError:
    """404 for an object."""
    return ApiError(404, "NotFound", f'{subject.qualified} "{subject.name}" not found', subject)


def already_exists(subject: ResourceRef) -> ApiError:
    """409 for a name that is taken."""
    return ApiError(409, "AlreadyExists", f'{subject.qualified} "{subject.name}" already exists', subject)


def conflict(subject: ResourceRef, why: str | None = None) -> ApiError:
    """409 for a version that is no longer the newest, or another precondition."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {subject.qualified} "{subject.name}": {why}',
        subject,
    )


def bad_request(message: str, subject: ResourceRef | None = None) -> ApiError:
    """400 for a request that can't be understood or that admission refuses."""
    return ApiError(400, "BadRequest", message, subject or ResourceRef())


def invalid(subject: ResourceRef, causes: Sequence[Cause]) -> ApiError:
    """422 for an object whose fields are wrong."""
    texts = [f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    kind = f"{subject.kind}.{subject.group}" if subject.group else subject.kind
    return ApiError(422, "Invalid", f'{kind} "{subject.name}" is invalid: {listed}', subject, tuple(causes))


def expired(message: str) -> ApiError:
    """410 for a resourceVersion or continue token from too long ago."""
    return ApiError(410, "Expired", message)


def denied(webhook: str, message: str, subject: ResourceRef) -> ApiError:
    """400, worded as an admission webhook's refusal."""
    return ApiError(
        400, "BadRequest", f'admission webhook "{webhook}" denied the request: {message}', subject
    )
