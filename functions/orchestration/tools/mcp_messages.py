"""What an MCP server says, as a model is told it (pure)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from functions.dialogue import FunctionSpec
from functions.orchestration.tools.results import EMPTY, ToolResult, failed, shortened
from functions.orchestration.tools.strictness import strictness

if TYPE_CHECKING:
    import mcp_types

SEPARATOR: Final = "__"
"""Between the server's name and the tool's: names in an agent file have no underscores."""
_NAME_CHARS: Final = 64
_DESCRIPTION_CHARS: Final = 16_384


def visible_name(server: str, tool: str) -> str:
    """A tool's name for the model, `SERVER__TOOL`, within what OpenAI's API takes for one."""
    name = f"{server}{SEPARATOR}{re.sub(r'[^A-Za-z0-9_-]', '_', tool)}"
    if len(name) <= _NAME_CHARS:
        return name
    digest = hashlib.sha256(f"{server}{SEPARATOR}{tool}".encode()).hexdigest()[:8]
    return f"{name[: _NAME_CHARS - 9]}_{digest}"


def spec_of(name: str, tool: mcp_types.Tool, strict: bool | None = None) -> FunctionSpec:  # noqa: FBT001
    """A listed tool as OpenAI's API describes one.

    Args:
        name: for the model.
        tool: as listed.
        strict: as the agent file has it.
    """
    description = tool.description or tool.title or tool.name
    parameters = dict(tool.input_schema)
    return FunctionSpec(
        name=name,
        description=description[:_DESCRIPTION_CHARS],
        parameters=parameters,
        strict=strictness(strict, parameters),
    )


def may_repeat(tool: mcp_types.Tool) -> bool:
    """Whether the server says that a second call does nothing more than the first."""
    hints = tool.annotations
    return hints is not None and (hints.read_only_hint is True or hints.idempotent_hint is True)


def result_of(result: mcp_types.CallToolResult, chars: int) -> ToolResult:
    """The result of a call.

    Args:
        result: as it came.
        chars: of its text at most.
    """
    text = "\n".join(_parts(result.content))
    structured = result.structured_content
    as_json = None if structured is None else json.dumps(structured, ensure_ascii=False)
    text = text or as_json or EMPTY
    if result.is_error:
        return failed(text)
    fits = as_json is not None and len(as_json) <= chars
    return ToolResult(shortened(text, chars), data=structured if fits else None)


def _parts(content: Iterable[mcp_types.ContentBlock]) -> Iterable[str]:
    for block in content:
        if block.type == "text":
            yield block.text
        elif block.type == "resource_link":
            yield f"{block.name}: {block.uri}"
        elif block.type == "resource":
            text = getattr(block.resource, "text", None)
            yield text if isinstance(text, str) else f"[{block.resource.uri} is not text, and not shown]"
        else:
            yield f"[{block.type} of type {block.mime_type}, not shown]"
