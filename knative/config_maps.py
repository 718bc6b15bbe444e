"""Parses the data of a ConfigMap key by key, as knative.dev/pkg/configmap does (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from knative.literals import LiteralError

_T = TypeVar("_T")
_D = TypeVar("_D")


class ConfigError(ValueError):
    """A ConfigMap that Knative refuses; the message is Knative's."""


class ConfigMapReader:
    """Converts the values of a ConfigMap; `prefix` begins the message about one that cannot be parsed."""

    def __init__(self, data: Mapping[str, str], prefix: str = "") -> None:
        self._data = data
        self._prefix = prefix

    def __call__(self, key: str, convert: Callable[[str], _T], default: _D) -> _T | _D:
        """The value of `key`, or the default if it is not set.

        Raises:
            ConfigError: `convert` raised a `LiteralError`.
        """
        if key not in self._data:
            return default
        try:
            return convert(self._data[key])
        except LiteralError as problem:
            raise ConfigError(f'{self._prefix}failed to parse "{key}": {problem}') from problem
