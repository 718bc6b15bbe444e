"""Knative's settings that admission depends on: `config-features`, `config-defaults`, `config-autoscaler`.

After knative.dev/serving, `pkg/apis/config/{features,defaults}.go`; pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from knative import feature_flags
from knative.autoscaling.annotations import MAX_INT32
from knative.autoscaling.config import DEFAULT_CONFIG, AutoscalerConfig
from knative.config_maps import ConfigError, ConfigMapReader
from knative.literals import read_boolean, read_integer, read_quantity

_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_TEMPLATE_FIELD = re.compile(r"\{\{-?\s*\.(Name|Namespace|GenerateName)\s*-?\}\}")


@dataclass(frozen=True, slots=True)
class RevisionDefaults:
    """`config-defaults`: defaults of a Revision, and the limits of its values."""

    timeout_s: int = 300
    max_timeout_s: int = 600
    response_start_timeout_s: int = 300
    """0: none."""
    idle_timeout_s: int = 0
    """0: none."""
    concurrency: int = 0
    max_concurrency: int = 1000
    allow_zero_concurrency: bool = True
    service_links: bool | None = False
    """None: left to Kubernetes."""
    container_name: str = "user-container"
    """May hold `{{.Name}}`, `{{.Namespace}}` and `{{.GenerateName}}` of the template's owner."""
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)

    def named(self, template: str, meta: Mapping[str, object]) -> str:
        """The name of a container from a template, for an object with this metadata."""
        words = {"Name": "name", "Namespace": "namespace", "GenerateName": "generateName"}
        return _TEMPLATE_FIELD.sub(lambda found: str(meta.get(words[found[1]]) or ""), template)


DEFAULT_REVISION = RevisionDefaults()


def parse_defaults(data: Mapping[str, str]) -> RevisionDefaults:
    """The settings in the data of `config-defaults`.

    Raises:
        ConfigError: as Knative refuses them; or a template holds more than a field's name.
    """
    read, default = ConfigMapReader(data), DEFAULT_REVISION
    timeout = read("revision-timeout-seconds", read_integer, default.timeout_s)
    defaults = RevisionDefaults(
        container_name=_template(data, "container-name-template", default.container_name),
        allow_zero_concurrency=read("allow-container-concurrency-zero", read_boolean, True),
        service_links={"true": True, "false": False}.get(data.get("enable-service-links", "false").lower()),
        timeout_s=timeout,
        max_timeout_s=read("max-revision-timeout-seconds", read_integer, default.max_timeout_s),
        idle_timeout_s=read("revision-idle-timeout-seconds", read_integer, default.idle_timeout_s),
        response_start_timeout_s=read("revision-response-start-timeout-seconds", read_integer, timeout),
        concurrency=read("container-concurrency", read_integer, default.concurrency),
        max_concurrency=read("container-concurrency-max-limit", read_integer, default.max_concurrency),
        requests=_resources(read, "request"),
        limits=_resources(read, "limit"),
    )
    if timeout > defaults.max_timeout_s:
        raise ConfigError(
            f"revision-timeout-seconds ({timeout}) cannot be greater than "
            f"max-revision-timeout-seconds ({defaults.max_timeout_s})"
        )
    for key, value in (
        ("revision-response-start-timeout-seconds", defaults.response_start_timeout_s),
        ("revision-idle-timeout-seconds", defaults.idle_timeout_s),
    ):
        if value > 0 and value > timeout:
            raise ConfigError(f"{key} ({value}) cannot be greater than revision-timeout-seconds ({timeout})")
    most = defaults.max_concurrency
    if most < 1:
        raise ConfigError(f"expected 1 <= {most} <= {MAX_INT32}: container-concurrency-max-limit")
    if not 0 <= defaults.concurrency <= most:
        raise ConfigError(f"expected 0 <= {defaults.concurrency} <= {most}: container-concurrency")
    return defaults


def _resources(read: ConfigMapReader, what: str) -> dict[str, str]:
    found = {name: read(f"revision-{name}-{what}", read_quantity, None) for name in _RESOURCES}
    return {name: value for name, value in found.items() if value is not None}


def _template(data: Mapping[str, str], key: str, default: str) -> str:
    template = data.get(key, default)
    if "{{" in _TEMPLATE_FIELD.sub("", template):
        raise ConfigError(
            f'failed to parse "{key}": this platform knows {{{{.Name}}}}, {{{{.Namespace}}}} and '
            f"{{{{.GenerateName}}}} only, was: {template}"
        )
    return template


def parse_flags(data: Mapping[str, str]) -> Mapping[str, str]:
    """The feature flags in the data of `config-features`; an unknown value counts as unset."""
    known = ("enabled", "allowed", "disabled")
    return {key: value.lower() for key, value in data.items() if value.lower() in known}


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """The settings; those that are not set have Knative's defaults."""

    flags: Mapping[str, str] = field(default_factory=dict)
    """`config-features`, as `parse_flags` gives it."""
    autoscaler: AutoscalerConfig = DEFAULT_CONFIG
    """`config-autoscaler`."""
    defaults: RevisionDefaults = DEFAULT_REVISION
    """`config-defaults`."""

    def enabled(self, flag: str) -> bool:
        """Whether `kubernetes.FLAG` is enabled."""
        return feature_flags.is_enabled(flag, self.flags)
