"""Namespace and Secret: what the API server itself fills in and refuses."""

from __future__ import annotations

import base64

from knative.client.errors import Cause
from knative.client.resources import SECRET, Object
from knative.local.apiserver import errors


class NamespaceAdmission:
    """A Namespace is active from the start and carries its name as a label."""

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in phase, finalizer and label."""
        if old is None:
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["status"] = {"phase": "Active"}
        name = obj["metadata"].get("name")
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Nothing more to check."""
        del obj, old
        return []


class SecretAdmission:
    """A Secret's values are base64; plain ones are converted."""

    def default(self, obj: Object, old: Object | None) -> None:
        """`stringData` goes into `data`."""
        del old
        plain = obj.pop("stringData", None) or {}
        if plain:
            data = obj.setdefault("data", {})
            for key, value in plain.items():
                data[key] = base64.b64encode(value.encode()).decode()
        obj.setdefault("type", "Opaque")

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Refuse values that aren't base64, and changes of what is immutable."""
        causes = []
        for key, value in (obj.get("data") or {}).items():
            try:
                base64.b64decode(value, validate=True)
            except ValueError:  # of the alphabet or of ASCII
                causes.append(Cause("illegal base64 data", f"data.{key}", "FieldValueInvalid"))
        if old is not None and old.get("immutable") and old.get("data") != obj.get("data"):
            causes.append(Cause("field is immutable when `immutable` is set", "data", "FieldValueForbidden"))
        if causes:
            subject = errors.ResourceRef(
                SECRET.group, SECRET.plural, obj["metadata"].get("name", ""), SECRET.kind
            )
            raise errors.invalid(subject, causes)
        return []
