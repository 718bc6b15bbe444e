"""Admission of the ConfigMaps that hold Knative's settings, as Knative's config webhook makes it.

After knative.dev/pkg, `webhook/configmaps`. On a cluster the webhook gets the ConfigMaps with Knative's
labels; here it gets all that have the name of one with settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from knative.client.resources import CONFIG_MAP, Object
from knative.config_maps import ConfigError
from knative.local import objects
from knative.local.apiserver import errors
from knative.local.apiserver.admission.data_values import key_violations, not_base64
from knative.local.apiserver.errors import ResourceRef

_WEBHOOK = "config.webhook.serving.knative.dev"


class ConfigMapAdmission:
    """Denies settings that cannot be parsed.

    Args:
        namespace: the namespace of the settings.
        parsers: by the name of a ConfigMap, a function of its data that raises `ConfigError`.
    """

    def __init__(self, namespace: str, parsers: Mapping[str, Callable[[Mapping[str, str]], Any]]) -> None:
        self._namespace = namespace
        self._parsers = parsers

    def default(self, obj: Object, old: Object | None) -> None:
        """Fill in nothing."""

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Refuse keys that are no names and binaryData that is not base64; deny what Knative denies."""
        del old
        name = objects.name_of(obj)
        binary = obj.get("binaryData") or {}
        causes = [
            *key_violations(obj.get("data") or {}, "data"),
            *key_violations(binary, "binaryData"),
            *not_base64(binary, "binaryData"),
        ]
        if causes:
            raise errors.invalid(ResourceRef.of(CONFIG_MAP, name), causes)
        parse = self._parsers.get(name)
        if parse is None or objects.namespace_of(obj) != self._namespace:
            return []
        try:
            parse(obj.get("data") or {})
        except ConfigError as problem:
            ref = ResourceRef.of(CONFIG_MAP, name)
            raise errors.denied(_WEBHOOK, f"validation failed: {problem}", ref) from problem
        return []
