"""YAML that remembers where each value stands, so that an error can name its line.

PyYAML composes a tree of nodes with marks before it makes values; walking that tree once gives both. Keys
that stand twice, which PyYAML silently lets the later win, are refused.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Location = tuple[str | int, ...]


class FileError(ValueError):
    """A file that cannot be used; `str()` is one line a problem, each naming file and line."""


@dataclass(frozen=True)
class Located:
    """A YAML document's value and the line (from 1) of each of its keys and items, by path."""

    value: Any
    lines: dict[Location, int]

    def line(self, location: Location) -> int:
        """The line of `location`, or of its nearest ancestor that stands in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


def load(path: Path) -> Located:
    """Read the one YAML document in `path`.

    Raises:
        FileError: when the file is missing, is no UTF-8, no YAML, empty, or holds more than one document.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{path}: cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is not UTF-8 (byte {error.start})") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise FileError(f"{path}:{line}: is no YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        raise FileError(f"{path}: is no YAML: {error.reason}") from error
    if node is None:
        raise FileError(f"{path}: is empty")
    lines: dict[Location, int] = {}
    _walk(node, (), lines, path)
    try:
        return Located(value=loader.construct_document(node), lines=lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FileError(f"{path}:{line}: {error.problem}") from error


def _walk(node: yaml.Node, here: Location, lines: dict[Location, int], path: Path) -> None:
    lines.setdefault(here, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            name = key.value
            line = key.start_mark.line + 1
            if name in seen:
                dotted = ".".join(str(part) for part in (*here, name))
                raise FileError(f"{path}:{line}: {dotted}: stands twice; keep one")
            seen.add(name)
            lines[(*here, name)] = line
            _walk(value, (*here, name), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*here, index), lines, path)
