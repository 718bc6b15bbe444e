"""Admission of the ConfigMaps that hold Knative's settings, as Knative's config webhook makes it.

After knative.dev/pkg, `webhook/configmaps`. On a cluster the webhook gets the ConfigMaps with Knative's
labels; here it gets all that have the name of one with settings.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from knative.client.resources import CONFIG_MAP, Object
from knative.config_maps import ConfigError
from knative.local import objects
from knative.local.apiserver import errors
from knative.local.apiserver.errors import ResourceRef

_WEBHOOK = "config.webhook.serving.knative.dev"
_EXAMPLE = "_example"
_CHECKSUM = "knative.dev/example-checksum"


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
        """Deny what Knative denies."""
        del old
        name = objects.name_of(obj)
        parse = self._parsers.get(name)
        if parse is None or objects.namespace_of(obj) != self._namespace:
            return []
        data = obj.get("data") or {}
        wanted = objects.annotations_of(obj).get(_CHECKSUM)
        if _EXAMPLE in data and wanted is not None and wanted != checksum(data[_EXAMPLE]):
            raise self._denied(
                name,
                f'the update modifies a key in "{_EXAMPLE}" which is probably not what you want. Instead, '
                'copy the respective setting to the top-level of the ConfigMap, directly below "data"',
            )
        try:
            parse(data)
        except ConfigError as problem:
            raise self._denied(name, str(problem)) from problem
        return []

    def _denied(self, name: str, text: str) -> errors.ApiError:
        return errors.denied(_WEBHOOK, f"validation failed: {text}", ResourceRef.of(CONFIG_MAP, name))


def checksum(example: str) -> str:
    """The checksum of an example, as Knative computes it (knative.dev/pkg, `configmap/example.go`)."""
    # Knative replaces line ends by a raw string: a backslash and an n.
    joined = re.sub(r"(?:\r?\n)+", r"\\n", example.strip())
    return f"{zlib.crc32(joined.encode()):08x}"
