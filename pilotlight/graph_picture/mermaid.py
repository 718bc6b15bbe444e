"""A picture as Mermaid's flowchart, which GitHub, GitLab and most editors draw (pure).

https://mermaid.js.org/syntax/flowchart.html; characters that mean something to it are written as entities.
"""

import re

from pilotlight.graph_picture.values import BEGIN, END, Box, Picture

COLOURS = {
    BEGIN: ("#f1f5f9", "#475569"),
    END: ("#f1f5f9", "#475569"),
    "ingest": ("#e0f2fe", "#0369a1"),
    "generate": ("#dcfce7", "#15803d"),
    "postprocess": ("#fef3c7", "#b45309"),
    "agent": ("#f3e8ff", "#7e22ce"),
    "tool": ("#ffe4e6", "#be123c"),
    "stage": ("#fefce8", "#854d0e"),
    "container": ("#f5f5f4", "#57534e"),
}
"""Fill and line by kind; the kind is written in each box too."""
_MEANINGFUL = re.compile(r"""[#&<>"'`|\\{}\[\]()]""")


def to_mermaid(picture: Picture) -> str:
    """The text, with a line end."""
    ids = {box.id: f"n{at}" for at, box in enumerate(picture.boxes)}
    lines = ["---", f"title: {picture.title}", "---", "flowchart TD"]
    lines += [f"  {ids[box.id]}{_shape(box)}" for box in picture.boxes]
    for arrow in picture.arrows:
        label = f"|{_quoted([arrow.label])}|" if arrow.label else ""
        line = "-.->" if arrow.dotted else "-->"
        lines.append(f"  {ids[arrow.source]} {line}{label} {ids[arrow.target]}")
    for kind, (fill, stroke) in COLOURS.items():
        if members := [ids[box.id] for box in picture.boxes if box.kind == kind]:
            lines.append(f"  classDef {kind}Box fill:{fill},stroke:{stroke},color:#111827")
            lines.append(f"  class {','.join(members)} {kind}Box")
    return "\n".join(lines) + "\n"


def _shape(box: Box) -> str:
    if box.kind in {BEGIN, END}:
        return f"([{_quoted([box.name, *box.notes])}])"
    name = box.name if box.name == box.kind else f"{box.name} ({box.kind})"
    return f"[{_quoted([name, *box.notes])}]"


def _quoted(lines: list[str]) -> str:
    escaped = (_MEANINGFUL.sub(lambda found: f"#{ord(found[0])};", line) for line in lines)
    return f'"{"<br/>".join(escaped)}"'
