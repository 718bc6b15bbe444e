"""vLLM's command line: its parser, and a description of its options."""

# ruff: noqa: PLC0415 - vLLM is imported by the functions, not with this module

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


class OptionError(ValueError):
    """vLLM's parser refuses an option; the message is the parser's."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a server's command line as vLLM does.

    Raises:
        OptionError: with the parser's message.
    """
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    module = cli_args()

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> None:
            raise OptionError(message)

    parser = module.make_arg_parser(Parser(prog="vllm"))
    args = parser.parse_args(_with_several_values(argv, parser._actions))  # noqa: SLF001
    try:
        module.validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error
    parsed: argparse.Namespace = args
    return parsed


def cli_args() -> Any:
    """The module with vLLM's argument parser for servers, which moved from release 0.32 to 0.33."""
    for name in ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ImportError("this release of vLLM keeps its argument parser in another module")


def _with_several_values(argv: Sequence[str], actions: Sequence[Any]) -> list[str]:
    """Replace `--option=["a", "b"]` by `--option a b` where the option takes several values.

    Args:
        argv: a command line.
        actions: the parser's actions.
    """
    repeated = {name for action in actions if _is_repeated(action) for name in action.option_strings}
    several = {name for action in actions if _takes_several(action) for name in action.option_strings}
    expanded: list[str] = []
    for argument in argv:
        name, _, value = argument.partition("=")
        items = _json_list(value) if name in several else None
        if items is None:
            expanded.append(argument)
            continue
        texts = [item if isinstance(item, str) else json.dumps(item) for item in items]
        if name in repeated:
            expanded += [part for text in texts for part in (name, text)]
        elif texts:
            expanded += [name, *texts]
    return expanded


def _is_repeated(action: Any) -> bool:
    """Whether several values are given by repeating the option."""
    return type(action).__name__ == "_AppendAction"


def _takes_several(action: Any) -> bool:
    return action.nargs in {"+", "*"} or _is_repeated(action)


def _json_list(text: str) -> list[Any] | None:
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list) else None


def describe_options() -> dict[str, tuple[str, list[str], bool, bool]]:
    """Every option by its long name: kind, choices, whether it takes several values, whether `--no-` exists.

    Kinds are those of `option_schema.OptionSpec`; an option that vLLM converts with a function of its own is
    `any`.
    """
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    described: dict[str, tuple[str, list[str], bool, bool]] = {}
    for action in cli_args().make_arg_parser(FlexibleArgumentParser(prog="vllm"))._actions:  # noqa: SLF001
        names = [name[2:] for name in action.option_strings if name.startswith("--")]
        kind = "flag" if action.nargs == 0 else _kind(action.type)
        plain = kind in {"text", "int", "float"} or action.type is None
        choices = [str(choice) for choice in action.choices or () if choice is not None] if plain else []
        for name in names:
            described[name] = (kind, choices, _takes_several(action), f"no-{name}" in names)
    return described


def _kind(convert: Any) -> str:
    """The kind of value that a conversion function of the parser takes.

    vLLM wraps the plain ones in closures that also accept texts such as `None`.
    """
    name = getattr(convert, "__name__", "")
    if name in {"_optional_type", "_parse_type"}:
        inner = [cell.cell_contents for cell in convert.__closure__ or ()]
        return _kind(inner[0]) if len(inner) == 1 else "any"
    if name.startswith("human_readable_int"):
        return "size"
    if convert is None:
        return "text"
    return {int: "int", float: "float", str: "text"}.get(convert, "any")
