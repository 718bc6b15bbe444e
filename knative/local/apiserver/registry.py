"""Creating, changing and deleting objects as Kubernetes does: identity, generation, owners, finalizers.

The API and the controllers both write through the registry, so that a Service that `kubectl` makes and a
Revision that the platform makes follow the same rules. The counterpart in Kubernetes is k8s.io/apiserver,
`pkg/registry/generic/registry/store.go`.
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
from knative.local.apiserver import errors
from knative.local.apiserver.deletion import GRACEFUL, DeleteOptions, Deleter
from knative.local.apiserver.errors import ResourceRef
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.managed_fields import record_status_update, record_update
from knative.local.apiserver.names import generate_name
from knative.local.apiserver.records import Key, Record
from knative.local.apiserver.store import Store
from knative.local.apiserver.validation import (
    PLATFORM_WRITE,
    Admission,
    ObjectValidator,
    WriteOptions,
    check_identity,
)

_POD_MANAGER = "kube-controller-manager"
"""The field manager of the Pods that the platform makes; of all other kinds it is `controller`."""
_STATUS_MANAGERS = {resources.POD: "kubelet", resources.POD_AUTOSCALER: "autoscaler"}
"""The field managers of status where it is not `controller`."""


_SERVER_METADATA = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "namespace",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
"""Metadata that no update changes."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The result of a write: the object as stored (or as it would be) and warnings for the client."""

    obj: Object
    warnings: tuple[str, ...] = ()
    version: int | None = None
    """The resourceVersion that must be on disk before the acknowledgement; None: nothing was written."""


class Registry:
    """All writes of objects.

    Args:
        store: holds them.
        kinds: the kinds that are served.
        admissions: what is checked beside the schema, by kind.
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
        self._validator = ObjectValidator(admissions)
        self._now = now
        self._deleter = Deleter(store, kinds, now)

    def get(self, key: Key) -> Record:
        """One object.

        Raises:
            ApiError: 404.
        """
        record = self.store.get(key)
        if record is None:
            raise errors.not_found(_ref(key))
        return record

    def create(
        self, resource: Resource, namespace: str, obj: Object, options: WriteOptions = PLATFORM_WRITE
    ) -> WriteResult:
        """Create an object (the registry takes over `obj`).

        Raises:
            ApiError: the name is taken, the namespace is missing, or the object is refused.
        """
        info = self.kinds[resource]
        meta = obj.setdefault("metadata", {})
        warnings = self._validator.prepare(info, obj, options)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = generate_name(meta["generateName"])
        key = Key(resource, namespace, str(meta.get("name") or ""))
        check_identity(key, obj)
        if self.store.get(key) is not None:
            raise errors.already_exists(_ref(key))
        self._check_namespace(key)
        now = objects.timestamp(self._now())
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"):
            meta.pop(field, None)
        if namespace:
            meta["namespace"] = namespace
        # It only has to be unique; the system's randomness would cost ten times as much.
        meta["uid"] = str(uuid.UUID(int=random.getrandbits(128), version=4))
        meta["creationTimestamp"] = now
        if info.has_status:
            meta["generation"] = 1
            if not options.trusted:
                obj.pop("status", None)
        self._validator.default(info, obj, None, options, custom=False)
        manager = _POD_MANAGER if options.trusted and resource == resources.POD else options.manager
        record_update(info.schema, None, obj, manager=manager, operation=options.operation, now=now)
        self._validator.default(info, obj, None, options, custom=True)
        warnings += self._validator.check(info, obj, None, options)
        if options.dry_run:
            return WriteResult(obj, tuple(warnings))
        record = self.store.put(key, obj, expect=0)
        return WriteResult(record.obj, tuple(warnings), record.version)

    def update(  # noqa: C901  # the order of the steps is the rule
        self,
        key: Key,
        obj: Object,
        options: WriteOptions = PLATFORM_WRITE,
        *,
        subresource: str | None = None,
        replaces: bool = False,
    ) -> WriteResult:
        """Put `obj` (which the registry takes over) in the place of the object at `key`.

        A resourceVersion in `obj` must be the current one; with `replaces` (a PUT) it must be there, unless
        the kind allows unconditional updates. With subresource `status` only status changes, without it
        everything else. An update that changes nothing makes no new version.

        Raises:
            ApiError: the object is gone or has changed, or `obj` is refused.
        """
        info = self.kinds[key.resource]
        old = self.get(key)
        warnings = self._validator.prepare(info, obj, options)
        check_identity(key, obj)
        _check_preconditions(info, key, obj, old, replaces=replaces)
        meta, old_meta = obj["metadata"], old.obj["metadata"]
        for field in _SERVER_METADATA:
            _keep(meta, old_meta, field)
        meta.pop("selfLink", None)
        if subresource == "status":
            obj = _with_status_of(old.obj, obj)
            if options.operation == "Apply":
                _keep(obj["metadata"], meta, "managedFields")
        elif info.has_status and not options.trusted:
            _keep(obj, old.obj, "status")
        if subresource is None:
            self._validator.default(info, obj, old.obj, options, custom=False)
        record_update(
            info.schema,
            old.obj,
            obj,
            manager=options.manager,
            operation=options.operation,
            now=objects.timestamp(self._now()),
            subresource=subresource,
        )
        if subresource is None:
            self._validator.default(info, obj, old.obj, options, custom=True)
            warnings += self._validator.check(info, obj, old.obj, options)
            if info.has_status and _desired_state(obj) != _desired_state(old.obj):
                obj["metadata"]["generation"] = old_meta.get("generation", 1) + 1
        if _without_times(obj) == _without_times(old.obj):
            return WriteResult(old.obj, tuple(warnings))
        if options.dry_run:
            return WriteResult(obj, tuple(warnings))
        record = self.store.put(key, obj, expect=old.version)
        released = obj["metadata"].get("deletionTimestamp") and not obj["metadata"].get("finalizers")
        if released and key.resource not in GRACEFUL:
            return WriteResult(record.obj, tuple(warnings), self._deleter.remove(key).version)
        return WriteResult(record.obj, tuple(warnings), record.version)

    def set_status(self, key: Key, status: Object) -> bool:
        """Set the status of an object, as the platform does; whether that changed anything."""
        old = self.store.get(key)
        if old is None or old.obj.get("status") == status:
            return False
        self.write_status(old, {**old.obj, "metadata": dict(old.obj["metadata"]), "status": status})
        return True

    def write_status(self, old: Record, obj: Object) -> None:
        """Put `obj` (which the registry takes over) in the place of `old`, from which its status differs.

        Its metadata must be a copy. The field manager is the part of Knative that writes such a status.
        """
        resource = old.key.resource
        record_status_update(
            self.kinds[resource].schema,
            old.obj,
            obj,
            manager=_STATUS_MANAGERS.get(resource, PLATFORM_WRITE.manager),
            now=objects.timestamp(self._now()),
        )
        self.store.put(old.key, obj, expect=old.version)

    def delete(self, key: Key, options: DeleteOptions | None = None) -> WriteResult:
        """Delete an object, or begin to if finalizers, dependents or a process still hold it.

        Raises:
            ApiError: the object is gone, or isn't the one that the preconditions name.
        """
        options = options or DeleteOptions()
        old = self.get(key)
        meta = old.obj["metadata"]
        for what, given, found in (
            ("UID", options.uid, meta["uid"]),
            ("ResourceVersion", options.resource_version, meta["resourceVersion"]),
        ):
            if given is not None and given != found:
                raise _precondition_failed(key, what, given, found)
        if options.dry_run:
            return WriteResult(old.obj)
        record = self._deleter.delete(old, options)
        return WriteResult(record.obj, (), self.store.version)

    def finish_deletion(self, key: Key) -> None:
        """Remove a gracefully deleted object whose process has ended, unless finalizers hold it."""
        self._deleter.finish(key)

    def collect_garbage(self) -> None:
        """Delete what has lost all its owners, and finish namespaces; for a start after a crash."""
        self._deleter.collect_garbage()

    def _check_namespace(self, key: Key) -> None:
        if not key.namespace:
            return
        record = self.store.get(Key(resources.NAMESPACE, "", key.namespace))
        if record is None:
            raise errors.not_found(ResourceRef.of(resources.NAMESPACE, key.namespace))
        if record.obj["metadata"].get("deletionTimestamp") and key.resource != resources.EVENT:
            ref = _ref(key)
            raise errors.ApiError(
                403,
                "Forbidden",
                f'{ref.qualified} "{key.name}" is forbidden: unable to create new content in namespace '
                f"{key.namespace} because it is being terminated",
                ref,
            )


def _ref(key: Key) -> ResourceRef:
    return ResourceRef.of(key.resource, key.name)


def _check_preconditions(info: KindInfo, key: Key, obj: Object, old: Record, *, replaces: bool) -> None:
    given = obj["metadata"].get("resourceVersion")
    if not given and replaces and not info.unconditional_update:
        raise errors.unconditional_update(_ref(key))
    if given and given != str(old.version):
        raise errors.conflict(_ref(key))
    uid, found = obj["metadata"].get("uid"), old.obj["metadata"]["uid"]
    if uid and uid != found:
        raise _precondition_failed(key, "UID", uid, found)


def _precondition_failed(key: Key, what: str, given: str, found: str) -> errors.ApiError:
    text = f"Precondition failed: {what} in precondition: {given}, {what} in object meta: {found}"
    return errors.conflict(_ref(key), text)


def _keep(target: Object, source: Mapping[str, Any], field: str) -> None:
    if field in source:
        target[field] = source[field]
    else:
        target.pop(field, None)


def _with_status_of(old: Object, given: Mapping[str, Any]) -> Object:
    """A copy of `old` with the status of `given`."""
    obj: Object = objects.clone(old)
    obj.pop("status", None)
    if given.get("status") is not None:
        obj["status"] = given["status"]
    return obj


def _desired_state(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but metadata and status: what `metadata.generation` counts changes of."""
    return {
        key: value for key, value in obj.items() if key not in ("metadata", "status", "apiVersion", "kind")
    }


def _without_times(obj: Mapping[str, Any]) -> dict[str, Any]:
    """The object without its version and the times of its managed fields, to compare two of them."""
    meta = dict(obj["metadata"])
    meta.pop("resourceVersion", None)
    meta["managedFields"] = [
        {key: value for key, value in entry.items() if key != "time"}
        for entry in meta.get("managedFields") or ()
    ]
    return {**obj, "metadata": meta}
