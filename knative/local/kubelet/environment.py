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
"""A ConfigMap or Secret by name; None if there is none."""

_REFERENCE = re.compile(r"\$\$|\$\(([^()\s]+)\)")
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
PYTHON = frozenset({"python", "python3"})


@dataclass(frozen=True, slots=True)
class ValueSources:
    """Where the values come from that a container's specification only refers to."""

    config_maps: Lookup
    secrets: Lookup


class ContainerConfigError(Exception):
    """The container's configuration is incomplete or wrong; the text names what is missing."""


def expand(text: str, env: Mapping[str, str]) -> str:
    """The text with `$(NAME)` replaced where NAME is a variable of `env`; `$$` is a literal dollar sign."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        return env.get(name, match[0])

    return _REFERENCE.sub(value, text)


def command(container: Mapping[str, Any], env: Mapping[str, str]) -> list[str]:
    """The program and its arguments; `python` is the interpreter that runs the platform."""
    given = (*(container.get("command") or ()), *(container.get("args") or ()))
    argv = [expand(argument, env) for argument in given]
    if argv and argv[0] in PYTHON:
        argv[0] = sys.executable
    return argv


def build(container: Mapping[str, Any], base: Mapping[str, str], sources: ValueSources) -> dict[str, str]:
    """The container's environment on top of `base`.

    Raises:
        ContainerConfigError: a ConfigMap, a Secret or a key that is not optional is missing.
    """
    env = dict(base)
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix") or ""
        for name, value in _env_from(source, sources).items():
            if _NAME.fullmatch(prefix + name):
                env[prefix + name] = value
    for entry in container.get("env") or ():
        found = _value(entry, env, sources)
        if found is not None:
            env[entry["name"]] = found
    return env


def _env_from(source: Mapping[str, Any], sources: ValueSources) -> dict[str, str]:
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
            raise ContainerConfigError(f'{kind} "{reference.get("name")}" not found')
        return {key: decode(found, key) for key in found.get("data") or {}}
    return {}


def _value(entry: Mapping[str, Any], env: Mapping[str, str], sources: ValueSources) -> str | None:
    source = entry.get("valueFrom")
    if source is None:
        return expand(entry.get("value") or "", env)
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
            raise ContainerConfigError(f'{kind} "{reference.get("name")}" not found')
        key = reference["key"]
        if key not in (found.get("data") or {}):
            if reference.get("optional"):
                return None
            raise ContainerConfigError(f"couldn't find key {key} in {kind.title()} {reference.get('name')}")
        return decode(found, key)
    raise ContainerConfigError(f'env "{entry["name"]}": valueFrom must have configMapKeyRef or secretKeyRef')


def text_of(config_map: Mapping[str, Any], key: str) -> str:
    """A ConfigMap's value."""
    return str(config_map["data"][key])


def secret_text_of(secret: Mapping[str, Any], key: str) -> str:
    """A Secret's value as text.

    Raises:
        ContainerConfigError: it is not UTF-8 text in base64.
    """
    try:
        return base64.b64decode(secret["data"][key], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as problem:
        raise ContainerConfigError(
            f"key {key} of Secret {secret['metadata']['name']} is not text in base64"
        ) from problem


def named_port(container: Mapping[str, Any]) -> tuple[int, str]:
    """The container's declared port and its name; the process listens on another one, which PORT tells it."""
    ports: Sequence[Mapping[str, Any]] = container.get("ports") or ()
    if not ports:
        return 8080, ""
    return int(ports[0].get("containerPort") or 8080), str(ports[0].get("name") or "")
