"""What it means to create, change and delete an object: identity, generation, finalizers, owners.

The store keeps bytes; this module keeps Kubernetes' promises about them. The API and the reconcilers both
write through it, so a Service made by `kubectl` and a Revision made by the platform follow the same rules.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from knative.client import resources
from knative.client.resources import Object, Resource
from knative.local import objects
from knative.local.apiserver import errors, metadata
from knative.local.apiserver.deletion import GRACEFUL, Deleter, Propagation
from knative.local.apiserver.errors import ResourceRef
from knative.local.apiserver.kinds import KindInfo
from knative.local.apiserver.managed_fields import record_status_update, record_update
from knative.local.apiserver.store import Key, Record, Store
from knative.local.apiserver.validation import (
    PLATFORM_WRITE,
    Admission,
    ObjectValidator,
    Validation,
    WriteOptions,
    check_identity,
)

__all__ = ["PLATFORM_WRITE", "Admission", "Registry", "Validation", "WriteOptions", "WriteResult"]

_MAKERS = {resources.POD: "kube-controller-manager"}
"""Who makes these kinds on a cluster; all others the controller makes."""
_REPORTERS = {
    resources.POD: "kubelet",
    resources.POD_AUTOSCALER: "autoscaler",
}
"""Who writes the status of these kinds; of all others the controller does."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The result of a write: the object as stored (or as it would be) and warnings for the client."""

    obj: Object
    warnings: tuple[str, ...] = ()
    version: int | None = None
    """The resourceVersion to wait for before acknowledging; None when nothing was written."""


class Registry:
    """All writes of objects.

    Args:
        store: where they are kept.
        kinds: the kinds that exist.
        admissions: what is checked besides the schema.
        now: the wall clock, for timestamps.
    """

    def __init__(
        self,
        store: Store,
        kinds: Mapping[Resource, KindInfo],
        admissions: Mapping[Resource, Admission],
        now: Callable[[], datetime],
    ) -> None:
        self.store = store
        self.kinds = kinds
        self._examination = ObjectValidator(admissions)
        self._now = now
        self._deleter = Deleter(store, kinds, now)

    def subject(self, key: Key) -> ResourceRef:
        """How errors name the object."""
        res = key.resource
        return ResourceRef(res.group, res.plural, key.name, res.kind)

    def read(self, key: Key) -> Record:
        """One object.

        Raises:
            ApiError: 404.
        """
        record = self.store.get(key)
        if record is None:
            raise errors.not_found(self.subject(key))
        return record

    # create

    def create(
        self, resource: Resource, namespace: str, obj: Object, options: WriteOptions = PLATFORM_WRITE
    ) -> WriteResult:
        """Create an object (which becomes the registry's own).

        Raises:
            ApiError: the name is taken, the namespace is missing, or the object is refused.
        """
        info = self.kinds[resource]
        meta = obj.setdefault("metadata", {})
        warnings = self._examination.clean(info, obj, options)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = metadata.generate_name(meta["generateName"])
        key = Key(resource, namespace, str(meta.get("name") or ""))
        subject = self.subject(key)
        check_identity(key, obj, self.subject(key))
        if self.store.get(key) is not None:
            raise errors.already_exists(subject)
        self._check_namespace(key)
        now = objects.timestamp(self._now())
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"):
            meta.pop(field, None)
        if namespace:
            meta["namespace"] = namespace
        # Unique is enough; the system's randomness costs ten times as much.
        meta["uid"] = str(uuid.UUID(int=random.getrandbits(128), version=4))
        meta["creationTimestamp"] = now
        if info.has_status:
            meta["generation"] = 1
            if not options.trusted:
                obj.pop("status", None)
        self._examination.fill_in(info, obj, None, options, custom=False)
        manager = _MAKERS.get(resource, options.manager) if options.trusted else options.manager
        record_update(info.schema, None, obj, manager=manager, operation=options.operation, now=now)
        self._examination.fill_in(info, obj, None, options, custom=True)
        warnings += self._examination.check(info, obj, None, options)
        if options.dry_run:
            return WriteResult(obj, tuple(warnings))
        record = self.store.put(key, obj, expect=0)
        return WriteResult(record.obj, tuple(warnings), record.version)

    # update

    def update(  # noqa: C901  # the order of the steps is the rule
        self,
        key: Key,
        obj: Object,
        options: WriteOptions = PLATFORM_WRITE,
        *,
        subresource: str | None = None,
    ) -> WriteResult:
        """Put `obj` (which becomes the registry's own) in the place of what is there.

        A resourceVersion in `obj` must be the current one. With subresource `status` only status changes,
        without it everything else. Writing what is there already changes nothing.

        Raises:
            ApiError: it is gone, has changed, or the object is refused.
        """
        info = self.kinds[key.resource]
        old = self.read(key)
        warnings = self._examination.clean(info, obj, options)
        check_identity(key, obj, self.subject(key))
        self._check_preconditions(key, obj, old)
        meta, old_meta = obj["metadata"], old.obj["metadata"]
        for field in (
            "uid",
            "creationTimestamp",
            "namespace",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ):
            _keep(meta, old_meta, field)
        meta["resourceVersion"] = old_meta["resourceVersion"]
        meta.pop("selfLink", None)
        if subresource == "status":
            obj = {**objects.clone(old.obj), "metadata": objects.clone(old_meta), "status": obj.get("status")}
            if obj["status"] is None:
                del obj["status"]
            if options.operation == "Apply":
                _keep(obj["metadata"], meta, "managedFields")
        elif info.has_status and not options.trusted:
            _keep(obj, old.obj, "status")
        now = objects.timestamp(self._now())
        if subresource is None:
            self._examination.fill_in(info, obj, old.obj, options, custom=False)
        record_update(
            info.schema,
            old.obj,
            obj,
            manager=options.manager,
            operation=options.operation,
            now=now,
            subresource=subresource,
        )
        if subresource is None:
            self._examination.fill_in(info, obj, old.obj, options, custom=True)
            warnings += self._examination.check(info, obj, old.obj, options)
            if info.has_status and _specification(obj) != _specification(old.obj):
                obj["metadata"]["generation"] = old_meta.get("generation", 1) + 1
        if _same(obj, old.obj):
            return WriteResult(old.obj, tuple(warnings))
        if options.dry_run:
            return WriteResult(obj, tuple(warnings))
        record = self.store.put(key, obj, expect=old.version)
        released = obj["metadata"].get("deletionTimestamp") and not obj["metadata"].get("finalizers")
        if released and key.resource not in GRACEFUL:
            return WriteResult(record.obj, tuple(warnings), self._deleter.remove(key).version)
        return WriteResult(record.obj, tuple(warnings), record.version)

    def set_status(self, key: Key, status: Object) -> bool:
        """The platform's own way to report; True if it changed anything."""
        old = self.store.get(key)
        if old is None or old.obj.get("status") == status:
            return False
        self.write_status(old, {**old.obj, "metadata": dict(old.obj["metadata"]), "status": status})
        return True

    def write_status(self, old: Record, obj: Object) -> None:
        """Put `obj` (which becomes the registry's own) in the place of `old`, from which its status differs.

        Its metadata must be a copy. Recorded as a write of status by the part of Knative that does it.
        """
        resource = old.key.resource
        record_status_update(
            self.kinds[resource].schema,
            old.obj,
            obj,
            manager=_REPORTERS.get(resource, PLATFORM_WRITE.manager),
            now=objects.timestamp(self._now()),
        )
        self.store.put(old.key, obj, expect=old.version)

    # delete

    def delete(
        self,
        key: Key,
        *,
        propagation: Propagation | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> WriteResult:
        """Delete an object, or begin to when finalizers, dependents or a process still hold it.

        Raises:
            ApiError: it is gone, or isn't the one that the preconditions name.
        """
        old = self.read(key)
        meta = old.obj["metadata"]
        for what, field, wanted in (
            ("UID", "uid", uid),
            ("ResourceVersion", "resourceVersion", resource_version),
        ):
            if wanted is not None and wanted != meta[field]:
                why = (
                    f"Precondition failed: {what} in precondition: {wanted}, "
                    f"{what} in object meta: {meta[field]}"
                )
                raise errors.conflict(self.subject(key), why)
        if dry_run:
            return WriteResult(old.obj)
        record = self._deleter.begin(old, propagation, grace_seconds)
        return WriteResult(record.obj, (), self.store.version)

    def finish_deletion(self, key: Key) -> None:
        """Remove a gracefully deleted object whose process has ended; finalizers still hold it."""
        self._deleter.finish_deletion(key)

    def collect_garbage(self) -> None:
        """Delete what has lost all its owners, and finish namespaces; for a start after a crash."""
        self._deleter.collect_garbage()

    def _check_preconditions(self, key: Key, obj: Object, old: Record) -> None:
        given = obj["metadata"].get("resourceVersion")
        if given and given != str(old.version):
            raise errors.conflict(self.subject(key))
        uid = obj["metadata"].get("uid")
        if uid and uid != old.obj["metadata"]["uid"]:
            raise errors.conflict(
                self.subject(key),
                f"Precondition failed: UID in precondition: {uid}, "
                f"UID in object meta: {old.obj['metadata']['uid']}",
            )

    def _check_namespace(self, key: Key) -> None:
        if not key.namespace:
            return
        record = self.store.get(Key(resources.NAMESPACE, "", key.namespace))
        if record is None:
            raise errors.not_found(ResourceRef("", "namespaces", key.namespace, "Namespace"))
        if record.obj["metadata"].get("deletionTimestamp") and key.resource != resources.EVENT:
            subject = self.subject(key)
            raise errors.ApiError(
                403,
                "Forbidden",
                f'{subject.qualified} "{key.name}" is forbidden: unable to create new content in namespace '
                f"{key.namespace} because it is being terminated",
                subject,
            )


def _keep(target: Object, source: Mapping[str, Any], field: str) -> None:
    if field in source:
        target[field] = source[field]
    else:
        target.pop(field, None)


def _specification(obj: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in obj.items() if key not in ("metadata", "status", "apiVersion", "kind")
    }


def _same(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Equal apart from when fields were managed."""
    return _without_times(new) == _without_times(old)


def _without_times(obj: Mapping[str, Any]) -> dict[str, Any]:
    meta = dict(obj["metadata"])
    meta.pop("resourceVersion", None)
    meta["managedFields"] = [
        {key: value for key, value in entry.items() if key != "time"}
        for entry in meta.get("managedFields") or ()
    ]
    return {**obj, "metadata": meta}
