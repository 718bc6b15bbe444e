"""Knative's switches: the ConfigMaps `config-*` of the namespace `knative-serving`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

NAMESPACE = "knative-serving"


@dataclass(frozen=True, slots=True)
class Features:
    """The settings that admission depends on; what isn't set has Knative's default."""

    flags: Mapping[str, str] = field(default_factory=dict)
    """`config-features`."""
    autoscaler: Mapping[str, str] = field(default_factory=dict)
    """`config-autoscaler`."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """`config-defaults`."""

    def enabled(self, flag: str) -> bool:
        """Whether `kubernetes.FLAG` is enabled."""
        return self.flags.get(f"kubernetes.{flag}", "").lower() in ("enabled", "allowed")

    @property
    def allow_zero_initial_scale(self) -> bool:
        """Whether initial-scale 0 is accepted."""
        return self.autoscaler.get("allow-zero-initial-scale", "").lower() == "true"

    @classmethod
    def of(cls, config_map: Callable[[str], Mapping[str, str]]) -> Features:
        """The settings in these ConfigMaps; `config_map` gives the data of one by name."""
        return cls(
            config_map("config-features"), config_map("config-autoscaler"), config_map("config-defaults")
        )

    def seconds(self, key: str, default: int) -> int:
        """A whole number of `config-defaults`."""
        text = self.defaults.get(key, "")
        return int(text) if text.isdigit() else default
