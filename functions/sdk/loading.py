"""From `MODULE:NAME` to the tool or stage that it names, with errors that the author can act on."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from functions.sdk.stages import StageFunction
from functions.sdk.tools import Tool

Served: TypeAlias = Tool[..., Any] | StageFunction[..., Any]
"""What a replica can serve."""


class ModuleError(Exception):
    """A module that cannot be served; the message says why, and what would be right."""


def load(reference: str, folder: Path | None) -> Served:
    """Import a module and take what it defines.

    Args:
        reference: `MODULE:NAME`.
        folder: where modules are found before the installed ones; None: as Python finds them.

    Raises:
        ModuleError: it is not there, does not import, or has no such tool or stage.
    """
    module_name, _, name = reference.partition(":")
    if folder is not None:
        if not folder.is_dir():
            raise ModuleError(f"{reference}: there is no folder {folder}")
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
            importlib.invalidate_caches()
    module = _import(module_name, reference, folder)
    found = getattr(module, name, None)
    if isinstance(found, Tool | StageFunction):
        return found
    there = [key for key, value in vars(module).items() if isinstance(value, Tool | StageFunction)]
    offered = f"it has {', '.join(sorted(there))}" if there else "it has neither a tool nor a stage"
    if found is None:
        raise ModuleError(f"{reference}: module {module_name} has no {name!r}; {offered}")
    raise ModuleError(
        f"{reference}: is of type {type(found).__name__}, must be a function with @tool or @stage; {offered}"
    )


def _import(module_name: str, reference: str, folder: Path | None) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            where = f"in {folder}" if folder is not None else f"in {Path.cwd()} or installed"
            raise ModuleError(
                f"{reference}: there is no module {error.name!r} {where}; "
                f"must be a file {error.name}.py there"
            ) from error
        raise ModuleError(
            f"{reference}: {_place(error, module_name, folder)} needs {error.name!r}, not installed"
        ) from error
    except (Exception, SystemExit) as error:
        raise ModuleError(
            f"{reference}: {_place(error, module_name, folder)}: {type(error).__name__}: {error}"
        ) from error


def _place(error: BaseException, module_name: str, folder: Path | None) -> str:
    """The author's line at which an import failed: the last one in the modules' folder."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    own = (folder or Path.cwd()).resolve()
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if own in Path(frame.filename).resolve().parents]
    return f"{inside[-1].filename}, line {inside[-1].lineno}" if inside else f"module {module_name}"
