"""`pilotlight graph`: the picture of an agent file's graph."""

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from pilotlight.agent_reader import load_agent
from pilotlight.graph_picture.mermaid import to_mermaid
from pilotlight.graph_picture.of_agent import picture_of
from pilotlight.graph_picture.values import Picture
from warmpool.experiments.html_page import write_files

app = typer.Typer(add_completion=False)

_FORMATS = ("mermaid", "svg", "png")
_SUFFIXES = {".mmd": "mermaid", ".mermaid": "mermaid", ".svg": "svg", ".png": "png"}


@app.command()
def graph(
    *,
    file: Annotated[Path, typer.Option("--file", "-f", help="Agent file.", show_default=False)],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="|".join(_FORMATS),
            help="Default: as the name of --output ends, else mermaid.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file instead of standard output."),
    ] = None,
) -> None:
    """Draw the graph of an agent's stages: Mermaid text, SVG or PNG.

    Solid arrows are the ways of a request. Dotted ones are calls: an agent's of its model and tools, and of
    what stands in for a stage that fails.
    """
    chosen = _format(form, output)
    picture = picture_of(load_agent(file))
    content = to_mermaid(picture).encode() if chosen == "mermaid" else _draw(picture, chosen)
    if output is not None:
        _write(output, content)
        typer.echo(f"{output}: {len(picture.boxes)} boxes, {len(picture.arrows)} arrows", err=True)
        return
    if chosen == "png" and sys.stdout.isatty():
        raise typer.BadParameter("is needed: a terminal shows no PNG", param_hint="--output")
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        typer.echo(f"error: standard output: {error.strerror}", err=True)
        raise typer.Exit(1) from None


def _write(output: Path, content: bytes) -> None:
    path = output.expanduser().absolute()
    if path.is_dir():
        raise typer.BadParameter(f"'{output}' is a folder, must be a file", param_hint="--output")
    try:
        write_files(path.parent, {path.name: content})
    except OSError as error:
        raise typer.BadParameter(
            f"'{output}' cannot be written: {error.strerror}", param_hint="--output"
        ) from None


def _format(form: str | None, output: Path | None) -> str:
    if form is None:
        suffix = output.suffix.lower() if output is not None else ".mmd"
        if suffix not in _SUFFIXES:
            endings = ", ".join(_SUFFIXES)
            raise typer.BadParameter(
                f"'{output}' must end with {endings}, or --format must say what to write",
                param_hint="--output",
            )
        return _SUFFIXES[suffix]
    if form not in _FORMATS:
        raise typer.BadParameter(f"'{form}' must be one of {', '.join(_FORMATS)}", param_hint="--format")
    return form


def _draw(picture: Picture, form: str) -> bytes:
    try:
        # matplotlib takes half a second to import, which Mermaid does not need.
        drawing = importlib.import_module("pilotlight.graph_picture.drawing")
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"{error.name} is not installed; pictures need: pip install 'pilotlight[experiments]'",
            param_hint="--format",
        ) from None
    content: bytes = drawing.draw(picture, form)
    return content
