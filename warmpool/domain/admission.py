"""Validating admission of WarmPools: what a webhook says to the API server (admission.k8s.io/v1).

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.spec_errors import SpecError
from warmpool.domain.spec_warnings import spec_warnings

_MAX_WARNING: Final = 256
"""Characters of one warning; Kubernetes cuts longer ones."""


@dataclass(frozen=True, slots=True)
class SpecReview:
    """What is wrong with a WarmPool, and what is probably not meant."""

    problems: tuple[str, ...] = ()
    """One line per mistake; any of them denies the write."""
    warnings: tuple[str, ...] = ()


def review_pool(obj: Mapping[str, Any], old: Mapping[str, Any] | None, now: datetime) -> SpecReview:
    """Review a WarmPool that is created, or updated from `old`.

    An update that leaves the spec as it is passes: a pool that was stored before a rule existed must still
    get its finalizer removed.
    """
    spec = obj.get("spec")
    if old is not None and old.get("spec") == spec:
        return SpecReview()
    try:
        parsed = WarmPoolSpec.parse(spec)
    except SpecError as error:
        return SpecReview(problems=tuple(error.problems))
    return SpecReview(warnings=tuple(spec_warnings(parsed, now)))


def review_request(review: object, now: datetime) -> dict[str, Any]:
    """The response to an AdmissionReview, as JSON values.

    Raises:
        ValueError: the request is not an AdmissionReview of admission.k8s.io/v1.
    """
    request = review.get("request") if isinstance(review, Mapping) else None
    if not isinstance(request, Mapping) or not isinstance(request.get("uid"), str):
        raise ValueError("must be an AdmissionReview of admission.k8s.io/v1 with a request and its uid")  # noqa: TRY004
    obj, old = request.get("object"), request.get("oldObject")
    response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
    if isinstance(obj, Mapping):  # a deletion has none
        found = review_pool(obj, old if isinstance(old, Mapping) else None, now)
        if found.problems:
            message = "; ".join(found.problems)
            status = {"code": 422, "reason": "Invalid", "message": message}
            response |= {"allowed": False, "status": status}
        if found.warnings:
            response["warnings"] = [warning[:_MAX_WARNING] for warning in found.warnings]
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
