"""Admission of Namespaces and Secrets, as the API server itself makes it."""

from __future__ import annotations

import base64

from knative.client.errors import Cause
from knative.client.resources import SECRET, Object
from knative.local.apiserver import errors
from knative.local.apiserver.admission.data_values import key_violations, not_base64
from knative.local.apiserver.errors import ResourceRef


class NamespaceAdmission:
    """Admission of Namespaces: they are active from the start, and carry their name as a label."""

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in phase, finalizer and label."""
        if old is None:
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["status"] = {"phase": "Active"}
        name = obj["metadata"].get("name")
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Check nothing."""
        del obj, old
        return []


class SecretAdmission:
    """Admission of Secrets: values are base64; those of `stringData` are encoded."""

    def default(self, obj: Object, old: Object | None) -> None:
        """Move `stringData` into `data`."""
        del old
        plain = obj.pop("stringData", None) or {}
        if plain:
            data = obj.setdefault("data", {})
            for key, value in plain.items():
                data[key] = base64.b64encode(value.encode()).decode()
        obj.setdefault("type", "Opaque")

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Refuse values that are not base64, and changes to immutable data."""
        data = obj.get("data") or {}
        causes = [*key_violations(data, "data"), *not_base64(data, "data")]
        if old is not None and old.get("immutable") and old.get("data") != obj.get("data"):
            causes.append(Cause("field is immutable when `immutable` is set", "data", "FieldValueForbidden"))
        if causes:
            raise errors.invalid(ResourceRef.of(SECRET, obj["metadata"].get("name", "")), causes)
        return []
