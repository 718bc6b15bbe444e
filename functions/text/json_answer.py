"""Finding the JSON that a model answered with: behind its reasoning, within a code fence. Pure and linear.

Models that reason write a block in front of the answer (`<think>...</think>`); some chat templates open the
block in the prompt, so that the output has the closing tag alone. Models that chat put a code fence around
JSON, often between two sentences.
"""

import json
import re

from pydantic import JsonValue

REASONING_TAGS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, MiniMax and most others
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
)
"""How a reasoning block begins and ends."""

_FENCE = re.compile(r"^[ \t]*```[^\n]*$", re.MULTILINE)


def parse_answer(text: str) -> JsonValue:
    """The JSON value of an answer.

    Raises:
        ValueError: it is not JSON; says where, or how many code blocks there are.
    """
    answer = without_reasoning(text)
    try:
        return _parse(answer)
    except ValueError as error:
        blocks = fenced_blocks(answer)
        if not blocks:
            raise
        if len(blocks) > 1:
            raise ValueError(f"{len(blocks)} code blocks, must be one") from error
    return _parse(blocks[0])


def without_reasoning(text: str) -> str:
    """The text behind a reasoning block at its beginning; the whole text without one."""
    begun = text.lstrip()
    for opening, closing in REASONING_TAGS:
        if begun.startswith(opening):
            reasoning, end, answer = begun.partition(closing)
            return answer if end else ""
    for opening, closing in REASONING_TAGS:
        reasoning, end, answer = begun.partition(closing)
        if end and opening not in reasoning and not _is_json(begun):
            return answer
    return text


def fenced_blocks(text: str) -> list[str]:
    """The contents of the code blocks in a text (CommonMark, 4.5, of three backticks)."""
    blocks = []
    begin: int | None = None
    for fence in _FENCE.finditer(text):
        if begin is None:
            begin = fence.end() + 1
        elif fence[0].strip() == "```":
            blocks.append(text[begin : fence.start()])
            begin = None
    return blocks


def _is_json(text: str) -> bool:
    try:
        _parse(text)
    except ValueError:
        return False
    return True


def _parse(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")
