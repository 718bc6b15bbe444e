"""What a picture of a graph shows (pure)."""

from dataclasses import dataclass

BEGIN = "request"
END = "answer"
"""Kinds of the two boxes that are no stages."""


@dataclass(frozen=True, slots=True)
class Box:
    """One stage, or where requests come from and answers go to.

    Attributes:
        id: unique; no stage can have that of `BEGIN` and `END`.
        name: shown first.
        kind: of the stage, else `BEGIN` or `END`.
        notes: lines below the name.
    """

    id: str
    name: str
    kind: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrow:
    """The way of a request, or (`dotted`) a call that a stage makes or causes."""

    source: str
    target: str
    label: str = ""
    dotted: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A graph to draw."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
