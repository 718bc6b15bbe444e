"""A container's command and environment, as Kubernetes puts them together (pure)."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Lookup = Callable[[str], Mapping[str, Any] | None]
"""A ConfigMap's or Secret's object by name, or None."""
Fields = Callable[[Mapping[str, Any]], str | None]
"""What a `valueFrom` says of the pod itself; None if it refers to something else."""

_REFERENCE = re.compile(r"\$\$|\$\(([^()\s]+)\)")
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
PYTHON = frozenset({"python", "python3"})


@dataclass(frozen=True, slots=True)
class Sources:
    """Where values come from that the container's specification only refers to."""

    config_maps: Lookup
    secrets: Lookup
    fields: Fields


class ConfigError(Exception):
    """The environment can't be built; the text says what is missing."""


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where NAME is known; `$$` is a literal dollar sign."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        return env.get(name, match[0])

    return _REFERENCE.sub(value, text)


def command(container: Mapping[str, Any], env: Mapping[str, str]) -> list[str]:
    """The program and its arguments; `python` is the interpreter that runs the platform."""
    words = [expand(word, env) for word in (container.get("command") or [])]
    words += [expand(word, env) for word in (container.get("args") or [])]
    if words and words[0] in PYTHON:
        words[0] = sys.executable
    return words


def build(container: Mapping[str, Any], base: Mapping[str, str], sources: Sources) -> dict[str, str]:
    """The container's environment over `base`.

    Raises:
        ConfigError: a ConfigMap, a Secret or a key that isn't optional is missing; the pod has no such field.
    """
    env = dict(base)
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix") or ""
        for name, value in _all_of(source, sources).items():
            if _NAME.fullmatch(prefix + name):
                env[prefix + name] = value
    for entry in container.get("env") or ():
        found = _value(entry, env, sources)
        if found is not None:
            env[entry["name"]] = found
    return env


def _all_of(source: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    for field, kind, lookup, decode in (
        ("configMapRef", "configmap", sources.config_maps, text_of),
        ("secretRef", "secret", sources.secrets, secret_text_of),
    ):
        reference = source.get(field)
        if reference is None:
            continue
        found = lookup(reference.get("name") or "")
        if found is None:
            if reference.get("optional"):
                return {}
            raise ConfigError(f'{kind} "{reference.get("name")}" not found')
        return {key: decode(found, key) for key in found.get("data") or {}}
    return {}


def _value(entry: Mapping[str, Any], env: Mapping[str, str], sources: Sources) -> str | None:
    source = entry.get("valueFrom")
    if source is None:
        return expand(entry.get("value") or "", env)
    if (known := sources.fields(source)) is not None:
        return known
    for field, kind, lookup, decode in (
        ("configMapKeyRef", "configmap", sources.config_maps, text_of),
        ("secretKeyRef", "secret", sources.secrets, secret_text_of),
    ):
        reference = source.get(field)
        if reference is None:
            continue
        found = lookup(reference.get("name") or "")
        if found is None:
            if reference.get("optional"):
                return None
            raise ConfigError(f'{kind} "{reference.get("name")}" not found')
        key = reference["key"]
        if key not in (found.get("data") or {}):
            if reference.get("optional"):
                return None
            raise ConfigError(f"couldn't find key {key} in {kind.title()} {reference.get('name')}")
        return decode(found, key)
    raise ConfigError(f'env "{entry["name"]}": valueFrom names nothing that is known here')


def text_of(config_map: Mapping[str, Any], key: str) -> str:
    """A ConfigMap's value."""
    return str(config_map["data"][key])


def secret_text_of(secret: Mapping[str, Any], key: str) -> str:
    """A Secret's value as text.

    Raises:
        ConfigError: it isn't base64 of UTF-8.
    """
    try:
        return base64.b64decode(secret["data"][key], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as problem:
        raise ConfigError(
            f"key {key} of Secret {secret['metadata']['name']} is not text in base64"
        ) from problem


def named_port(container: Mapping[str, Any]) -> tuple[int, str]:
    """The container's declared port and its name; the process gets another number in PORT."""
    ports: Sequence[Mapping[str, Any]] = container.get("ports") or ()
    if not ports:
        return 8080, ""
    return int(ports[0].get("containerPort") or 8080), str(ports[0].get("name") or "")
