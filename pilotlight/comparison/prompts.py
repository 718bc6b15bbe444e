"""The prompts of a comparison: a text a line, or a JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight.comparison.errors import CompareInputError

LONGEST_LINE = 65_536
MOST_PROMPTS = 10_000
_JSON_ENDINGS = frozenset({".jsonl", ".ndjson", ".json"})
_FORMS = 'must be {"prompt": TEXT} or {"messages": [{"role": ROLE, "content": TEXT}, ...]}'


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: a text, or the messages of a chat.

    Attributes:
        line: in the file, from 1.
        text: what is completed; None for a chat.
        messages: of the chat, as OpenAI's API has them; empty for a text.
    """

    line: int
    text: str | None = None
    messages: tuple[dict[str, str], ...] = ()

    def request(self) -> dict[str, Any]:
        """What tells vLLM's `/tokenize` of it."""
        return {"prompt": self.text} if self.text is not None else {"messages": list(self.messages)}


def read_prompts(file: Path) -> list[Prompt]:
    """Read a prompts file; empty lines are left out.

    Args:
        file: with the ending `.jsonl` a JSON object or string a line, else a text a line.

    Raises:
        CompareInputError: with file and line.
    """
    as_json = file.suffix.lower() in _JSON_ENDINGS
    prompts: list[Prompt] = []
    try:
        with file.open("rb") as lines:
            # `readline` with a limit: a file of one endless line takes no memory.
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), b""), start=1):
                if len(line) > LONGEST_LINE:
                    raise CompareInputError(f"{file}:{number}: must have at most {LONGEST_LINE:,} bytes")
                text = _text(file, number, line)
                if not text:
                    continue
                prompts.append(_parse(file, number, text) if as_json else Prompt(number, text))
                if len(prompts) > MOST_PROMPTS:
                    raise CompareInputError(f"{file}:{number}: must have at most {MOST_PROMPTS:,} prompts")
    except OSError as error:
        raise CompareInputError(f"--prompts {file}: {error.strerror}") from None
    if not prompts:
        raise CompareInputError(f"--prompts {file}: has no prompts")
    return prompts


def _text(file: Path, number: int, line: bytes) -> str:
    try:
        return line.decode().strip()
    except UnicodeDecodeError:
        raise CompareInputError(f"{file}:{number}: must be UTF-8") from None


def _parse(file: Path, number: int, text: str) -> Prompt:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CompareInputError(f"{file}:{number}: is not JSON ({error})") from None
    if isinstance(value, dict):
        if isinstance(messages := value.get("messages"), list) and messages and "prompt" not in value:
            return Prompt(number, messages=tuple(_message(file, number, item) for item in messages))
        value = value.get("prompt")
    if not isinstance(value, str) or not value.strip():
        raise CompareInputError(f"{file}:{number}: {_FORMS}")
    return Prompt(number, value)


def _message(file: Path, number: int, value: object) -> dict[str, str]:
    if isinstance(value, dict):
        role, content = value.get("role"), value.get("content")
        if isinstance(role, str) and isinstance(content, str):
            return {"role": role, "content": content}
    raise CompareInputError(f"{file}:{number}: {_FORMS}")
