"""A picture of a graph as SVG or PNG, with neither browser nor network."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from pilotlight.graph_picture.layout import Layout, Point, Size, place
from pilotlight.graph_picture.mermaid import COLOURS
from pilotlight.graph_picture.values import BEGIN, END, Box, Picture

_NAME: Final = FontProperties(size=11, weight="bold")
_NOTE: Final = FontProperties(size=9)
_TITLE: Final = FontProperties(size=13, weight="bold")
_LINE: Final = 15.0
_PADDING: Final = 12.0
_MARGIN: Final = 18.0
_PULL: Final = 8.0
"""Of the way of a request, beside that of a call."""
_INK: Final = "#111827"
_WAY: Final = "#334155"
_POINTS_PER_INCH: Final = 72
_LARGEST_INCHES: Final = 200.0
"""matplotlib refuses pictures of more than 2^16 pixels on a side."""


def draw(picture: Picture, form: Literal["svg", "png"]) -> bytes:
    """The file's content; the same for the same picture."""
    lines = {box.id: _lines(box) for box in picture.boxes}
    sizes = {name: _size(found) for name, found in lines.items()}
    bottom = next((box.id for box in picture.boxes if box.kind == END), None)
    ways = [(arrow.source, arrow.target) for arrow in picture.arrows]
    pulls = [1.0 if arrow.dotted else _PULL for arrow in picture.arrows]
    layout = place(sizes, ways, pulls, bottom=bottom)
    head = _LINE * 2
    width = max(layout.size.width, _width(picture.title, _TITLE)) + 2 * _MARGIN
    height = layout.size.height + 2 * _MARGIN + head
    scale = min(1.0, _LARGEST_INCHES * _POINTS_PER_INCH / max(width, height))
    with mpl.rc_context({"svg.hashsalt": picture.title, "svg.fonttype": "path"}):
        figure = Figure(figsize=(width * scale / _POINTS_PER_INCH, height * scale / _POINTS_PER_INCH))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(-_MARGIN, width - _MARGIN)
        axes.set_ylim(height - head - _MARGIN, -head - _MARGIN)
        axes.axis("off")
        axes.text(
            0, -head / 2 - _MARGIN / 2, _plain(picture.title), fontproperties=_TITLE, va="center", color=_INK
        )
        _draw_arrows(axes, picture, layout)
        for box in picture.boxes:
            _draw_box(axes, box, layout.centres[box.id], sizes[box.id], lines[box.id])
        content = io.BytesIO()
        described = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(content, format=form, dpi=144 * scale, metadata=described)
    return content.getvalue()


def _draw_box(
    axes: Axes, box: Box, centre: Point, size: Size, lines: Sequence[tuple[str, FontProperties]]
) -> None:
    fill, line = COLOURS[box.kind]
    rounding = size.height / 2 if box.kind in {BEGIN, END} else 5
    corner = (centre.x - size.width / 2, centre.y - size.height / 2)
    style = f"round,pad=0,rounding_size={rounding}"
    axes.add_patch(FancyBboxPatch(corner, size.width, size.height, boxstyle=style, fc=fill, ec=line, lw=1.2))
    y = centre.y - _LINE * (len(lines) - 1) / 2
    for text, font in lines:
        axes.text(centre.x, y, _plain(text), fontproperties=font, ha="center", va="center", color=_INK)
        y += _LINE


def _draw_arrows(axes: Axes, picture: Picture, layout: Layout) -> None:
    for arrow, way in zip(picture.arrows, layout.ways, strict=True):
        line = (0, (2, 2)) if arrow.dotted else "solid"
        axes.add_patch(
            FancyArrowPatch(
                path=_curve(way), arrowstyle="-|>", mutation_scale=11, color=_WAY, lw=1.2, linestyle=line,
                shrinkA=0, shrinkB=0,
            )
        )  # fmt: skip
    # Above all lines, so that none goes through a text.
    for arrow, way in zip(picture.arrows, layout.ways, strict=True):
        if arrow.label:
            x, y = (way[0].x + way[1].x) / 2, (way[0].y + way[1].y) / 2
            ground = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.92}
            axes.text(
                x,
                y,
                _plain(arrow.label),
                fontproperties=_NOTE,
                ha="center",
                va="center",
                color=_WAY,
                bbox=ground,
            )


def _curve(way: Sequence[Point]) -> Path:
    """Smooth, and upright at each point, so that it leaves and enters boxes and layers at a right angle."""
    points: list[tuple[float, float]] = [(way[0].x, way[0].y)]
    codes = [Path.MOVETO]
    for one, other in itertools.pairwise(way):
        middle = (one.y + other.y) / 2
        points += [(one.x, middle), (other.x, middle), (other.x, other.y)]
        codes += [Path.CURVE4] * 3
    return Path(points, codes)


def _lines(box: Box) -> list[tuple[str, FontProperties]]:
    name = [(box.name, _NAME)]
    kind = [] if box.kind in {BEGIN, END, box.name} else [(box.kind, _NOTE)]
    return [*name, *kind, *((note, _NOTE) for note in box.notes)]


def _size(lines: Sequence[tuple[str, FontProperties]]) -> Size:
    widest = max(_width(text, font) for text, font in lines)
    return Size(widest + 2 * _PADDING, _LINE * len(lines) + _PADDING)


def _width(text: str, font: FontProperties) -> float:
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), _plain(text), prop=font).get_extents().width)


def _plain(text: str) -> str:
    """Dollars begin formulas in matplotlib."""
    return text.replace("$", r"\$")
