"""Admission of Knative's kinds: defaults and denials as Knative's webhook makes them, and warnings.

After knative.dev/serving, `pkg/apis/serving/v1/*_{defaults,validation}.go`. Warnings are for what the webhook
lets pass although nobody means it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from knative.autoscaling import annotations as autoscaling
from knative.autoscaling.annotations import FieldError
from knative.autoscaling.config import AutoscalerConfig
from knative.client.resources import CONFIGURATION, POD_AUTOSCALER, REVISION, ROUTE, SERVICE, Object, Resource
from knative.labels import CREATOR_ANNOTATION, LAST_MODIFIER_ANNOTATION, PROGRESS_DEADLINE_ANNOTATION
from knative.literals import parse_duration
from knative.local import objects
from knative.local.apiserver import errors
from knative.local.apiserver.admission import field_errors, pod_spec
from knative.local.apiserver.admission.field_errors import Errors
from knative.local.apiserver.admission.revision_defaults import fill_revision_spec
from knative.local.apiserver.admission.serving_config import ServingConfig
from knative.local.apiserver.admission.traffic import fill_traffic, rollout_duration_errors, traffic_errors
from knative.local.apiserver.metadata import USER

_WEBHOOK = "validation.webhook.serving.knative.dev"


UnsupportedWarnings = Callable[[Mapping[str, Any]], Iterable[str]]
"""Makes warnings of what a Revision with this spec asks for and this machine can't give."""


def _deny_if(found: Iterable[FieldError], resource: Resource, obj: Mapping[str, Any]) -> None:
    listed = list(found)
    if listed:
        ref = errors.ResourceRef.of(resource, str(obj["metadata"].get("name", "")))
        raise errors.denied(_WEBHOOK, f"validation failed: {field_errors.text(listed)}", ref)


class _TemplateAdmission:
    """What Service and Configuration have in common: a template of Revisions."""

    resource: Resource

    def __init__(self, config: Callable[[], ServingConfig], unsupported: UnsupportedWarnings) -> None:
        self._config = config
        self._unsupported = unsupported

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in the template, and the users who created and last changed the object."""
        template = (obj.get("spec") or {}).get("template")
        if isinstance(template, dict):
            template.setdefault("metadata", {}).pop("creationTimestamp", None)
            if isinstance(template.get("spec"), dict):
                fill_revision_spec(template["spec"], self._config(), obj["metadata"])
            if not template["metadata"]:
                del template["metadata"]
        _set_user(obj, old)

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Deny what the webhook denies; warn of what it lets pass."""
        _deny_if(self._errors(obj, old), self.resource, obj)
        template = obj["spec"]["template"]
        spec = template["spec"]
        annotations = (template.get("metadata") or {}).get("annotations") or {}
        found = _scaling_warnings(annotations, spec, self._config().autoscaler, "spec.template.")
        return [*found, *self._unsupported(spec)]

    def _errors(self, obj: Mapping[str, Any], old: Mapping[str, Any] | None) -> Errors:
        yield from _named(obj)
        yield from field_errors.via(
            "metadata.annotations", autoscaling.misplaced(objects.annotations_of(obj))
        )
        template = (obj.get("spec") or {}).get("template")
        if not isinstance(template, dict) or not template.get("spec"):
            yield field_errors.missing("spec.template.spec.containers")
            return
        yield from field_errors.via("spec.template", _template(template, obj, self._config()))
        if old is not None:
            yield from field_errors.via("metadata.annotations", _user_change(obj, old))
            yield from field_errors.via(
                "spec.template", _name_change(template, old["spec"].get("template") or {})
            )


class ServiceAdmission(_TemplateAdmission):
    """Admission of Services: template and traffic."""

    resource = SERVICE

    def default(self, obj: Object, old: Object | None) -> None:
        """Send all traffic to the newest Revision unless the object says otherwise."""
        spec = obj.setdefault("spec", {})
        if not spec.get("traffic"):
            spec["traffic"] = [{"latestRevision": True, "percent": 100}]
        fill_traffic(spec["traffic"])
        super().default(obj, old)

    def _errors(self, obj: Mapping[str, Any], old: Mapping[str, Any] | None) -> Errors:
        yield from super()._errors(obj, old)
        rollout = rollout_duration_errors(objects.annotations_of(obj))
        yield from field_errors.via("metadata.annotations", rollout)
        yield from field_errors.via("spec", traffic_errors(obj["spec"].get("traffic") or [], of_service=True))


class ConfigurationAdmission(_TemplateAdmission):
    """Admission of Configurations: a template."""

    resource = CONFIGURATION


class RouteAdmission:
    """Admission of Routes: traffic."""

    def default(self, obj: Object, old: Object | None) -> None:
        """Let an entry without a Revision's name follow the newest Revision."""
        fill_traffic((obj.get("spec") or {}).get("traffic") or [])
        _set_user(obj, old)

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Deny what the webhook denies."""
        changes = _user_change(obj, old) if old is not None else ()
        found = [
            *_named(obj),
            *field_errors.via("metadata.annotations", changes),
            *field_errors.via("metadata.annotations", rollout_duration_errors(objects.annotations_of(obj))),
            *field_errors.via(
                "spec", traffic_errors((obj.get("spec") or {}).get("traffic") or [], of_service=False)
            ),
        ]
        _deny_if(found, ROUTE, obj)
        return []


class RevisionAdmission:
    """Admission of Revisions: the spec is immutable, annotations are not."""

    def __init__(self, config: Callable[[], ServingConfig], unsupported: UnsupportedWarnings) -> None:
        self._config = config
        self._unsupported = unsupported

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in a Revision that was not made from a template."""
        if old is None and isinstance(obj.get("spec"), dict):
            fill_revision_spec(obj["spec"], self._config(), obj["metadata"])

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Deny what the webhook denies; warn of what it lets pass."""
        annotations = objects.annotations_of(obj)
        found = [
            *field_errors.via("metadata.annotations", _annotations(annotations, self._config())),
            *field_errors.via("spec", pod_spec.revision_spec(obj.get("spec") or {}, self._config())),
        ]
        if old is not None and old["spec"] != obj.get("spec"):
            found.append(
                FieldError(
                    "Immutable fields changed (-old +new)",
                    ("spec",),
                    _difference(old["spec"], obj.get("spec")),
                )
            )
        _deny_if(found, REVISION, obj)
        warned = _scaling_warnings(annotations, obj["spec"], self._config().autoscaler, "")
        return [*warned, *self._unsupported(obj["spec"])] if old is None else warned


class PodAutoscalerAdmission:
    """Admission of PodAutoscalers: their annotations obey the rules of a Revision's."""

    def __init__(self, config: Callable[[], ServingConfig]) -> None:
        self._config = config

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in nothing; the Revision's reconciler does."""

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Deny what the webhook denies."""
        del old
        found = autoscaling.validate(objects.annotations_of(obj), self._config().autoscaler)
        _deny_if(field_errors.via("metadata.annotations", found), POD_AUTOSCALER, obj)
        return []


def _scaling_warnings(
    annotations: Mapping[str, str], spec: Mapping[str, Any], config: AutoscalerConfig, where: str
) -> list[str]:
    """What a Revision's annotations say that nobody means; `where` is the path to its metadata."""
    return [
        f"{error.message}: {', '.join(f'{where}metadata.annotations.{path}' for path in error.paths)}"
        for error in autoscaling.warnings(
            annotations, config, container_concurrency=spec.get("containerConcurrency") or 0
        )
    ]


def _set_user(obj: Object, old: Object | None) -> None:
    """Record the user, whatever the object says, as `SetUserInfo` of knative.dev/pkg/apis does."""
    annotations = obj["metadata"].setdefault("annotations", {})
    if old is None:
        annotations[CREATOR_ANNOTATION] = USER
    if old is None or old.get("spec") != obj.get("spec"):
        annotations[LAST_MODIFIER_ANNOTATION] = USER
    if not annotations:
        del obj["metadata"]["annotations"]


def _user_change(obj: Mapping[str, Any], old: Mapping[str, Any]) -> Errors:
    """As `ValidateCreatorAndModifier` of knative.dev/pkg/apis: nobody else writes these annotations."""
    before, after = objects.annotations_of(old), objects.annotations_of(obj)
    if before.get(CREATOR_ANNOTATION) != after.get(CREATOR_ANNOTATION):
        yield FieldError("annotation value is immutable", (CREATOR_ANNOTATION,))
    if old.get("spec") == obj.get("spec"):
        modifier = after.get(LAST_MODIFIER_ANNOTATION, "")
        if before.get(LAST_MODIFIER_ANNOTATION, "") != modifier:
            yield field_errors.invalid(modifier, LAST_MODIFIER_ANNOTATION)


def _named(obj: Mapping[str, Any]) -> Errors:
    name = str(obj["metadata"].get("name") or "")
    if not field_errors.LABEL_1035.fullmatch(name):
        yield FieldError(field_errors.NOT_LABEL_1035, ("metadata.name",))


def _template(template: Mapping[str, Any], owner: Mapping[str, Any], config: ServingConfig) -> Errors:
    meta = template.get("metadata") or {}
    name, prefix = meta.get("name"), f"{owner['metadata'].get('name')}-"
    if name:
        if not str(name).startswith(prefix):
            yield field_errors.invalid(f'"{name}" must have prefix "{prefix}"', "metadata.name")
        elif not field_errors.LABEL_1035.fullmatch(str(name)):
            yield FieldError(field_errors.NOT_LABEL_1035, ("metadata.name",))
    yield from field_errors.via("metadata.annotations", _annotations(meta.get("annotations") or {}, config))
    yield from field_errors.via("spec", pod_spec.revision_spec(template["spec"], config))


def _annotations(annotations: Mapping[str, str], config: ServingConfig) -> Errors:
    yield from autoscaling.validate(annotations, config.autoscaler)
    deadline = annotations.get(PROGRESS_DEADLINE_ANNOTATION)
    if deadline is not None:
        seconds = parse_duration(deadline)
        if seconds is None:
            yield field_errors.invalid(deadline, PROGRESS_DEADLINE_ANNOTATION)
        elif seconds < 1 or seconds.denominator != 1:
            yield field_errors.invalid(
                deadline, PROGRESS_DEADLINE_ANNOTATION, "must be at least 1s and a whole number of seconds"
            )


def _name_change(template: Mapping[str, Any], before: Mapping[str, Any]) -> Errors:
    name = (template.get("metadata") or {}).get("name")
    if name and name == (before.get("metadata") or {}).get("name") and template != before:
        yield FieldError(
            "Saw the following changes without a name change (-old +new)",
            ("metadata.name",),
            _difference(before, template),
        )


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The changed fields, one per line: path, old value, new value."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = [
            _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        return "\n".join(lines)
    return f"{path}: -{json.dumps(old)} +{json.dumps(new)}"
