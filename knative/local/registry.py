"""What it means to create, change and delete an object: identity, generation, finalizers, owners.

The store keeps bytes; this module keeps Kubernetes' promises about them. The API and the reconcilers both
write through it, so a Service made by `kubectl` and a Revision made by the platform follow the same rules.
"""

from __future__ import annotations

import random
import re
import string
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from knative import cluster
from knative.cluster import Cause, Object, Resource
from knative.local import errors, objects
from knative.local.errors import Subject
from knative.local.kinds import KindInfo
from knative.local.managed import track
from knative.local.schemas import structural
from knative.local.store import Key, Record, Store

Propagation = Literal["Background", "Foreground", "Orphan"]
Validation = Literal["Strict", "Warn", "Ignore"]

FOREGROUND = "foregroundDeletion"
_GRACE_SECONDS = 30
_LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Options:
    """How a write was asked for."""

    manager: str = "unknown"
    operation: Literal["Apply", "Update"] = "Update"
    dry_run: bool = False
    validation: Validation = "Warn"
    trusted: bool = False
    """The platform's own write: no admission, no field validation."""


TRUSTED = Options(manager="controller", trusted=True)


class Admission(Protocol):
    """What a kind's owner wants of its objects before they are stored."""

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in what the user left out, in place."""

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Refuse with an `ApiError`, or return warnings."""


@dataclass(frozen=True, slots=True)
class Written:
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
        self._admissions = admissions
        self._now = now

    def subject(self, key: Key) -> Subject:
        """How errors name the object."""
        res = key.resource
        return Subject(res.group, res.plural, key.name, res.kind)

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

    def create(self, resource: Resource, namespace: str, obj: Object, options: Options = TRUSTED) -> Written:
        """Create an object (which becomes the registry's own).

        Raises:
            ApiError: the name is taken, the namespace is missing, or the object is refused.
        """
        info = self.kinds[resource]
        meta = obj.setdefault("metadata", {})
        warnings = self._clean(info, obj, options)
        self._name(meta)
        key = Key(resource, namespace, str(meta.get("name") or ""))
        subject = self.subject(key)
        self._check_identity(info, key, obj)
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
        warnings += self._admit(info, obj, None, options)
        track(info.schema, None, obj, manager=options.manager, operation=options.operation, now=now)
        if options.dry_run:
            return Written(obj, tuple(warnings))
        record = self.store.put(key, obj, expect=0)
        return Written(record.obj, tuple(warnings), record.version)

    # update

    def update(  # the order of the steps is the rule
        self,
        key: Key,
        obj: Object,
        options: Options = TRUSTED,
        *,
        subresource: str | None = None,
    ) -> Written:
        """Put `obj` (which becomes the registry's own) in the place of what is there.

        A resourceVersion in `obj` must be the current one. With subresource `status` only status changes,
        without it everything else. Writing what is there already changes nothing.

        Raises:
            ApiError: it is gone, has changed, or the object is refused.
        """
        info = self.kinds[key.resource]
        old = self.read(key)
        warnings = self._clean(info, obj, options)
        self._check_identity(info, key, obj)
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
        elif info.has_status and not options.trusted:
            _keep(obj, old.obj, "status")
        if subresource is None:
            warnings += self._admit(info, obj, old.obj, options)
        now = objects.timestamp(self._now())
        if info.has_status and subresource is None and _specification(obj) != _specification(old.obj):
            obj["metadata"]["generation"] = old_meta.get("generation", 1) + 1
        track(
            info.schema,
            old.obj,
            obj,
            manager=options.manager,
            operation=options.operation,
            now=now,
            subresource=subresource,
        )
        if _same(obj, old.obj):
            return Written(old.obj, tuple(warnings))
        if options.dry_run:
            return Written(obj, tuple(warnings))
        record = self.store.put(key, obj, expect=old.version)
        released = obj["metadata"].get("deletionTimestamp") and not obj["metadata"].get("finalizers")
        if released and key.resource not in _GRACEFUL:
            return Written(record.obj, tuple(warnings), self._remove(key).version)
        return Written(record.obj, tuple(warnings), record.version)

    def set_status(self, key: Key, status: Object) -> bool:
        """The platform's own way to report; True if it changed anything."""
        old = self.store.get(key)
        if old is None or old.obj.get("status") == status:
            return False
        obj = {**old.obj, "metadata": dict(old.obj["metadata"]), "status": status}
        self.store.put(key, obj, expect=old.version)
        return True

    # delete

    def delete(  # noqa: C901, PLR0912  # preconditions, policies and holders, each a line or two
        self,
        key: Key,
        *,
        propagation: Propagation | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> Written:
        """Delete an object, or begin to when finalizers, dependents or a process still hold it.

        Raises:
            ApiError: it is gone, or isn't the one that the preconditions name.
        """
        old = self.read(key)
        meta = old.obj["metadata"]
        subject = self.subject(key)
        for what, field, wanted in (
            ("UID", "uid", uid),
            ("ResourceVersion", "resourceVersion", resource_version),
        ):
            if wanted is not None and wanted != meta[field]:
                why = (
                    f"Precondition failed: {what} in precondition: {wanted}, "
                    f"{what} in object meta: {meta[field]}"
                )
                raise errors.conflict(subject, why)
        if dry_run:
            return Written(old.obj)
        if key.resource == cluster.NAMESPACE:
            return self._delete_namespace(key, old)
        obj = objects.clone(old.obj)
        finalizers: list[str] = list(meta.get("finalizers") or ())
        if propagation == "Orphan":
            self._orphan(meta["uid"])
        elif propagation == "Foreground" and FOREGROUND not in finalizers and self._blocked(meta["uid"]):
            finalizers.append(FOREGROUND)
        graceful = key.resource in _GRACEFUL and grace_seconds != 0
        if not finalizers and not graceful:
            record = self._remove(key)
            return Written(record.obj, (), record.version)
        if "deletionTimestamp" not in meta:
            grace = _GRACE_SECONDS if grace_seconds is None else grace_seconds
            obj["metadata"]["deletionTimestamp"] = objects.timestamp(self._now())
            obj["metadata"]["deletionGracePeriodSeconds"] = grace if graceful else 0
            if info_generation := meta.get("generation"):
                obj["metadata"]["generation"] = info_generation + 1
        if finalizers:
            obj["metadata"]["finalizers"] = finalizers
        if _same(obj, old.obj):
            return Written(old.obj)
        record = self.store.put(key, obj, expect=old.version)
        if FOREGROUND in finalizers:
            for dependent in self.store.owned(meta["uid"]):
                self._delete_quietly(dependent.key, "Foreground")
        return Written(record.obj, (), record.version)

    def finish(self, key: Key) -> None:
        """Remove a gracefully deleted object whose process has ended; finalizers still hold it."""
        record = self.store.get(key)
        if record is not None and not record.obj["metadata"].get("finalizers"):
            self._remove(key)

    def sweep(self) -> None:
        """Delete what has lost all its owners, and finish namespaces; for a start after a crash."""
        for resource in self.kinds:
            for record in self.store.list(resource):
                owners = objects.owner_uids(record.obj)
                if owners and not any(self._alive(reference, record) for reference in _owners(record.obj)):
                    self._delete_quietly(record.key)
        for record in self.store.list(cluster.NAMESPACE):
            if record.obj["metadata"].get("deletionTimestamp"):
                self._delete_namespace(record.key, record)

    def _remove(self, key: Key) -> Record:
        record = self.store.remove(key)
        uid = record.obj["metadata"]["uid"]
        for dependent in self.store.owned(uid):
            if any(self._alive(owner, dependent) for owner in _owners(dependent.obj) if owner["uid"] != uid):
                continue
            self._delete_quietly(dependent.key)
        self._release_foreground(record)
        namespace = self.store.get(Key(cluster.NAMESPACE, "", key.namespace)) if key.namespace else None
        if namespace is not None and namespace.obj["metadata"].get("deletionTimestamp"):
            self._finish_namespace(namespace.key)
        return record

    def _delete_quietly(self, key: Key, propagation: Propagation | None = None) -> None:
        if self.store.get(key) is not None:
            self.delete(key, propagation=propagation)

    def _alive(self, owner: Mapping[str, Any], dependent: Record) -> bool:
        group, _, version = owner["apiVersion"].rpartition("/")
        for resource in self.kinds:
            if (resource.group, resource.version, resource.kind) == (group, version, owner["kind"]):
                where = dependent.key.namespace if resource.namespaced else ""
                record = self.store.get(Key(resource, where, owner["name"]))
                return record is not None and record.obj["metadata"]["uid"] == owner["uid"]
        return True  # a kind that isn't served here; nobody can say that it is gone

    def _blocked(self, uid: str) -> bool:
        return any(
            owner.get("blockOwnerDeletion")
            for dependent in self.store.owned(uid)
            for owner in _owners(dependent.obj)
            if owner["uid"] == uid
        )

    def _release_foreground(self, gone: Record) -> None:
        """The owners that waited for this dependent need wait no longer."""
        for owner in _owners(gone.obj):
            for resource in self.kinds:
                if resource.kind != owner["kind"]:
                    continue
                where = gone.key.namespace if resource.namespaced else ""
                record = self.store.get(Key(resource, where, owner["name"]))
                if record is None or record.obj["metadata"]["uid"] != owner["uid"]:
                    continue
                finalizers = record.obj["metadata"].get("finalizers") or []
                if FOREGROUND in finalizers and not self._blocked(owner["uid"]):
                    obj = objects.clone(record.obj)
                    obj["metadata"]["finalizers"] = [item for item in finalizers if item != FOREGROUND]
                    if not obj["metadata"]["finalizers"]:
                        del obj["metadata"]["finalizers"]
                    self.update(record.key, obj)

    def _orphan(self, uid: str) -> None:
        for dependent in self.store.owned(uid):
            obj = objects.clone(dependent.obj)
            remaining = [owner for owner in _owners(obj) if owner["uid"] != uid]
            obj["metadata"]["ownerReferences"] = remaining
            if not remaining:
                del obj["metadata"]["ownerReferences"]
            self.store.put(dependent.key, obj, expect=dependent.version)

    def _delete_namespace(self, key: Key, old: Record) -> Written:
        if "deletionTimestamp" not in old.obj["metadata"]:
            obj = objects.clone(old.obj)
            obj["metadata"]["deletionTimestamp"] = objects.timestamp(self._now())
            obj["status"] = {"phase": "Terminating"}
            old = self.store.put(key, obj, expect=old.version)
        for record in self.store.in_namespace(key.name):
            self._delete_quietly(record.key)
        self._finish_namespace(key)
        return Written(old.obj, (), self.store.version)

    def _finish_namespace(self, key: Key) -> None:
        if self.store.get(key) is not None and next(self.store.in_namespace(key.name), None) is None:
            self.store.remove(key)

    def _clean(self, info: KindInfo, obj: Object, options: Options) -> list[str]:
        """Field validation, pruning and types; returns warnings."""
        if options.trusted:
            return []
        res = info.resource
        obj.setdefault("apiVersion", res.api_version)
        obj.setdefault("kind", res.kind)
        subject = Subject(res.group, res.plural, str(obj["metadata"].get("name", "")), res.kind)
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
        causes = list(structural.violations(info.schema, obj))
        if causes:
            raise errors.invalid(subject, causes)
        return warnings

    def _admit(self, info: KindInfo, obj: Object, old: Object | None, options: Options) -> list[str]:
        admission = self._admissions.get(info.resource)
        if admission is None or options.trusted:
            return []
        admission.default(obj, old)
        return admission.check(obj, old)

    def _name(self, meta: Object) -> None:
        if not meta.get("name") and meta.get("generateName"):
            # Without vowels and look-alikes, as Kubernetes does.
            letters = [
                letter for letter in string.ascii_lowercase + string.digits if letter not in "aeiou013l"
            ]
            meta["name"] = meta["generateName"] + "".join(random.choices(letters, k=5))  # noqa: S311  # a name

    def _check_identity(self, info: KindInfo, key: Key, obj: Object) -> None:
        meta, subject = obj["metadata"], self.subject(key)
        if not key.name:
            raise errors.invalid(
                subject,
                [
                    Cause(
                        "Required value: name or generateName is required",
                        "metadata.name",
                        "FieldValueRequired",
                    )
                ],
            )
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
        pattern = _LABEL_NAME if info.resource == cluster.NAMESPACE else _SUBDOMAIN
        if not pattern.fullmatch(key.name) or len(key.name) > 253:
            raise errors.invalid(
                subject,
                [
                    Cause(
                        f'Invalid value: "{key.name}": a lowercase RFC 1123 subdomain must consist of lower '
                        "case alphanumeric characters, '-' or '.', and must start and end with an "
                        "alphanumeric character",
                        "metadata.name",
                        "FieldValueInvalid",
                    )
                ],
            )

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
        record = self.store.get(Key(cluster.NAMESPACE, "", key.namespace))
        if record is None:
            raise errors.not_found(Subject("", "namespaces", key.namespace, "Namespace"))
        if record.obj["metadata"].get("deletionTimestamp") and key.resource != cluster.EVENT:
            subject = self.subject(key)
            raise errors.ApiError(
                403,
                "Forbidden",
                f'{subject.qualified} "{key.name}" is forbidden: unable to create new content in namespace '
                f"{key.namespace} because it is being terminated",
                subject,
            )


_GRACEFUL = frozenset({cluster.POD})


def _owners(obj: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return obj["metadata"].get("ownerReferences") or []


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
