"""Knative's ConfigMaps in the namespace `knative-serving`, as values.

They are read when needed, so that a change takes effect at once. Admission refuses an invalid one
(`admission.config_maps`); one that an earlier version has stored leaves the last valid values in force, as on
a cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from knative.autoscaling import config
from knative.autoscaling.config import AutoscalerConfig
from knative.client.resources import CONFIG_MAP, Object
from knative.config_maps import ConfigError
from knative.local import objects
from knative.local.apiserver.admission.serving_config import ServingConfig, parse_defaults, parse_flags
from knative.local.apiserver.records import Key
from knative.local.apiserver.store import Store
from knative.local.controllers.desired_state.revision_gc import Retention, parse_retention
from knative.local.controllers.desired_state.revisions import parse_progress_deadline

log = logging.getLogger(__name__)

NAMESPACE: Final = "knative-serving"
AUTOSCALER: Final = "config-autoscaler"
DEFAULTS: Final = "config-defaults"
DEPLOYMENT: Final = "config-deployment"
FEATURES: Final = "config-features"
GC: Final = "config-gc"

PARSERS: Mapping[str, Callable[[Mapping[str, str]], Any]] = {
    AUTOSCALER: config.parse,
    DEFAULTS: parse_defaults,
    DEPLOYMENT: parse_progress_deadline,
    FEATURES: parse_flags,
    GC: parse_retention,
}
"""The ConfigMaps that are read, with the parser of each one's data."""


class KnativeSettings:
    """The settings in force.

    Args:
        store: the ConfigMaps.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, tuple[int, Any]] = {}

    @property
    def autoscaler(self) -> AutoscalerConfig:
        """`config-autoscaler`."""
        value: AutoscalerConfig = self._value(AUTOSCALER)
        return value

    @property
    def retention(self) -> Retention:
        """`config-gc`."""
        value: Retention = self._value(GC)
        return value

    @property
    def progress_deadline_s(self) -> float:
        """`config-deployment`: seconds that a Revision may take until it is ready for the first time."""
        value: float = self._value(DEPLOYMENT)
        return value

    @property
    def features(self) -> ServingConfig:
        """The settings that admission depends on."""
        return ServingConfig(self._value(FEATURES), self.autoscaler, self._value(DEFAULTS))

    def _value(self, name: str) -> Any:  # of the parser's type
        record = self._store.get(Key(CONFIG_MAP, NAMESPACE, name))
        version = 0 if record is None else record.version
        seen = self._seen.get(name)
        if seen is not None and seen[0] == version:
            return seen[1]
        try:
            value = PARSERS[name]({} if record is None else record.obj.get("data") or {})
        except ConfigError as problem:
            log.error(  # noqa: TRY400  # the message is complete
                "%s is not valid, and the last valid values stay in force: %s", name, problem
            )
            value = PARSERS[name]({}) if seen is None else seen[1]
        self._seen[name] = (version, value)
        return value


def initial(name: str) -> Object:
    """The empty ConfigMap that a new platform has, to be patched and edited."""
    labels = {
        "app.kubernetes.io/component": "autoscaler" if name == AUTOSCALER else "controller",
        "app.kubernetes.io/name": NAMESPACE,
    }
    return objects.typed(CONFIG_MAP, {"metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}})
