"""What the model is told of tools that are Python modules: asked of them, in a process of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from functions.sdk import describe
from functions.settings import MODULE_REFERENCE
from knative import env_vars

_SECONDS = 120
"""For the import of all modules of an agent file."""

Location = tuple[str | int, ...]


def read_tool_modules(document: dict[str, Any], folder: Path) -> Iterator[tuple[Location, str]]:
    """Put description and parameters of tools with a `module` in their place, in `document` itself.

    A module is imported for it, as a test or a replica would; not where the file has a description.

    Args:
        document: an agent file's content, not checked yet.
        folder: of the agent file, in which the modules are.

    Yields:
        Where a module is named that cannot be used, and why.
    """
    spec = document.get("spec")
    stages = spec.get("stages") if isinstance(spec, dict) else None
    wanted: list[tuple[int, dict[str, Any], dict[str, Any]]] = []
    for index, stage in enumerate(stages if isinstance(stages, list) else ()):
        if not isinstance(stage, dict) or stage.get("kind") != "tool":
            continue
        module, tool = stage.get("module"), stage.get("tool", {})
        if not (isinstance(module, str) and MODULE_REFERENCE.fullmatch(module) and isinstance(tool, dict)):
            continue  # the check of the whole file says what is wrong
        stage["tool"] = tool
        if "description" not in tool and "mcp" not in tool:
            wanted.append((index, stage, tool))
    if not wanted:
        return
    found = _described([stage["module"] for _, stage, _ in wanted], folder)
    for index, stage, tool in wanted:
        described = found.get(stage["module"], {"error": "its process ended without an answer"})
        if "error" in described:
            yield ("spec", "stages", index, "module"), f"cannot be used: {described['error']}"
            described = {"description": "?"}  # checked no further: the module is the problem
        tool.update({key: value for key, value in described.items() if key not in tool})


def _described(modules: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """What each module says of its tool: `description` and `parameters`, or `error`."""
    env = {**os.environ, env_vars.MODULE_PATH: str(folder)}
    command = [sys.executable, "-m", describe.__name__, *modules]
    try:
        done = subprocess.run(  # noqa: S603 - the author's own modules, as their tests would import them
            command, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {name: {"error": f"its import takes more than {_SECONDS} s"} for name in modules}
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {name: {"error": f"its import ended the process: {last}"} for name in modules}
    assert isinstance(found, dict)
    return found
