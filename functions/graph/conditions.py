"""Expressions of the Common Expression Language (CEL) over a request and the replies so far (pure).

CEL has no loops but over lists that are there, and its regular expressions take linear time, so an expression
ends; https://github.com/google/cel-spec has the language.

Variables: `request` (`id`, `text`, `input`, `metadata`, `parameters`) and `stages`, by name, each with `ran`,
`text`, `output`, `data`, `finish_reason`, and `items` (the texts of a `map`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import cel

MAX_EXPRESSION_CHARS: Final = 2000
VARIABLES: Final = ("request", "stages")
EXTENSIONS: Final = ("core", "strings", "math")
"""Of the library's; not `lists`, whose `lists.range` makes a list of any length of a number."""
_REQUEST: Final = ("id", "text", "input", "metadata", "parameters")
_STAGE: Final = ("ran", "text", "output", "data", "finish_reason", "items")

_BOUND: Final = re.compile(r"\.(?:all|exists|exists_one|map|filter)\(\s*([A-Za-z_]\w*)\s*,")
_BY_DOT: Final = re.compile(r"\bstages\.([A-Za-z_]\w*)(?:\.([A-Za-z_]\w*))?")
_BY_INDEX: Final = re.compile(r"""\bstages\[\s*(?:"([^"]*)"|'([^']*)')\s*\](?:\.([A-Za-z_]\w*))?""")
_OF_REQUEST: Final = re.compile(r"\brequest\.([A-Za-z_]\w*)")
_TEXTS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'")


class ExpressionError(Exception):
    """An expression that has no value for a request; the message says why."""


class Condition:
    """A compiled expression.

    Raises:
        ValueError: it is none, or uses a name that does not exist.
    """

    def __init__(self, source: str) -> None:
        import cel  # noqa: PLC0415 - most agents have no expressions

        if len(source) > MAX_EXPRESSION_CHARS:
            raise ValueError(f"has {len(source)} characters, must have at most {MAX_EXPRESSION_CHARS}")
        self.source = source
        try:
            self._program = cel.compile(source)
        except ValueError as error:
            raise ValueError(f"is not a CEL expression: {_first_line(error)}") from None
        _check_names(source, self._program)

    @property
    def stages(self) -> frozenset[str]:
        """The stages whose replies it reads."""
        named = [name for name, _ in _BY_DOT.findall(_without_texts(self.source))]
        indexed = [double or single for double, single, _ in _BY_INDEX.findall(self.source)]
        return frozenset(named + indexed)

    @property
    def goes_over_lists(self) -> bool:
        """Whether it has a macro over a list, whose time the list's length decides."""
        return _BOUND.search(_without_texts(self.source)) is not None

    def value(self, variables: Mapping[str, Any]) -> Any:
        """The value for a request.

        Args:
            variables: as the module's docstring lists them, JSON values.

        Raises:
            ExpressionError: it has none, such as for a member that is not there.
        """
        import cel  # noqa: PLC0415 - loaded with the expression
        from cel.stdlib import add_stdlib_to_context  # noqa: PLC0415

        context = cel.Context(variables=dict(variables))
        add_stdlib_to_context(context, list(EXTENSIONS))
        try:
            return self._program.execute(context)
        except KeyError as error:
            raise ExpressionError(
                f"{self.source!r}: there is no member {error} (has() asks for one)"
            ) from None
        except Exception as error:  # noqa: BLE001 - the library raises several kinds, by what is wrong
            raise ExpressionError(f"{self.source!r}: {_first_line(error)}") from None


def truth(source: str, value: Any) -> bool:
    """The value of an expression that is to be true or false.

    Raises:
        ExpressionError: it is another.
    """
    if not isinstance(value, bool):
        raise ExpressionError(f"{source!r} is {value!r:.80}, must be true or false")
    return value


def _check_names(source: str, program: cel.Program) -> None:
    bare = _without_texts(source)
    bound = set(_BOUND.findall(bare))
    unknown = sorted(set(program.variables()) - bound - set(VARIABLES))
    if unknown:
        dashed = re.search(r"\bstages\.[\w.]*-" + re.escape(unknown[0]), bare)
        hint = ' (a name with a dash is written stages["NAME"])' if dashed else ""
        raise ValueError(f"{unknown[0]!r} is not known, must be one of {', '.join(VARIABLES)}{hint}")
    wrong = next((name for name in _OF_REQUEST.findall(bare) if name not in _REQUEST), None)
    if wrong is not None:
        raise ValueError(f"request has no {wrong!r}, must be one of {', '.join(_REQUEST)}")
    members = [member for _, member in _BY_DOT.findall(bare)]
    members += [member for _, _, member in _BY_INDEX.findall(source)]
    wrong = next((name for name in members if name and name not in _STAGE), None)
    if wrong is not None:
        raise ValueError(f"a stage has no {wrong!r}, must be one of {', '.join(_STAGE)}")


def _without_texts(source: str) -> str:
    return _TEXTS.sub('""', source)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
