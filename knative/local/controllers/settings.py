"""Knative's ConfigMaps in the namespace `knative-serving`, as the values in force.

Read when asked, so that a change acts at once. Admission refuses a bad one (`admission.config_maps`), so it
can be there only if an earlier version stored it; then what counted before goes on to count, as on a cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from knative.autoscaling import config
from knative.autoscaling.config import Config
from knative.client.resources import CONFIG_MAP, Object
from knative.config_maps import ConfigError
from knative.local import objects
from knative.local.apiserver.admission.serving_config import ServingConfig, parse_defaults, parse_flags
from knative.local.apiserver.store import Key, Store
from knative.local.controllers.reconcilers.configurations import Retention, parse_retention
from knative.local.controllers.reconcilers.revisions import parse_progress_deadline

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
"""The ConfigMaps that are read here, and how."""


class KnativeSettings:
    """The settings in force."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, tuple[int, Any]] = {}

    @property
    def autoscaler(self) -> Config:
        """`config-autoscaler`."""
        value: Config = self._value(AUTOSCALER)
        return value

    @property
    def retention(self) -> Retention:
        """`config-gc`."""
        value: Retention = self._value(GC)
        return value

    @property
    def progress_deadline_s(self) -> float:
        """Of `config-deployment`: how long a Revision may take to its first readiness."""
        value: float = self._value(DEPLOYMENT)
        return value

    @property
    def features(self) -> ServingConfig:
        """What admission depends on."""
        return ServingConfig(self._value(FEATURES), self.autoscaler, self._value(DEFAULTS))

    def _value(self, name: str) -> Any:  # what its parser gives
        record = self._store.get(Key(CONFIG_MAP, NAMESPACE, name))
        version = 0 if record is None else record.version
        seen = self._seen.get(name)
        if seen is not None and seen[0] == version:
            return seen[1]
        try:
            value = PARSERS[name]({} if record is None else record.obj.get("data") or {})
        except ConfigError as problem:
            log.error(  # noqa: TRY400  # the text says it all
                "%s is not valid, what counted before goes on to count: %s", name, problem
            )
            value = PARSERS[name]({}) if seen is None else seen[1]
        self._seen[name] = (version, value)
        return value


def initial(name: str) -> Object:
    """The ConfigMap that a new platform begins with: there to be changed, and empty."""
    labels = {
        "app.kubernetes.io/component": "autoscaler" if name == AUTOSCALER else "controller",
        "app.kubernetes.io/name": NAMESPACE,
    }
    return objects.typed(CONFIG_MAP, {"metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}})
