"""ConfigMaps of the namespace `knative-serving`: what Knative's config webhook refuses.

After knative.dev/pkg/webhook/configmaps. On a cluster the webhook looks at those with Knative's labels only;
here at all that have the name of one that counts.
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

_WEBHOOK = "config.webhook.serving.knative.dev"
_EXAMPLE = "_example"
_CHECKSUM = "knative.dev/example-checksum"


class ConfigMapAdmission:
    """Refuses settings that would not be understood.

    Args:
        namespace: where Knative's settings are.
        parsers: by a ConfigMap's name, what raises `ConfigError` for its data.
    """

    def __init__(self, namespace: str, parsers: Mapping[str, Callable[[Mapping[str, str]], Any]]) -> None:
        self._namespace = namespace
        self._parsers = parsers

    def default(self, obj: Object, old: Object | None) -> None:
        """Nothing is filled in."""

    def check(self, obj: Object, old: Object | None) -> list[str]:
        """Refuse what Knative refuses."""
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
        subject = errors.ResourceRef(CONFIG_MAP.group, CONFIG_MAP.plural, name, CONFIG_MAP.kind)
        return errors.denied(_WEBHOOK, f"validation failed: {text}", subject)


def checksum(example: str) -> str:
    """What Knative's own ConfigMaps carry about their example (knative.dev/pkg/configmap/example.go)."""
    # Go replaces by a raw string: a backslash and an n.
    joined = re.sub(r"(?:\r?\n)+", r"\\n", example.strip())
    return f"{zlib.crc32(joined.encode()):08x}"
