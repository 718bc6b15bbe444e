"""`pilotlight demo`: the main job, end to end."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pilotlight.demo import run as demonstration

_EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "support"


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command()(demo)


def demo(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|s3://...", help="Serve this checkpoint.", show_default="a small one is made"
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running afterwards, until Ctrl-C.")] = False,
    agent: Annotated[
        Path, typer.Option(help="Agent file.", show_default="examples/support/agent.yaml")
    ] = _EXAMPLE / "agent.yaml",
    prompts: Annotated[
        Path,
        typer.Option(help="Prompts, one JSON object a line.", show_default="examples/support/prompts.jsonl"),
    ] = _EXAMPLE / "prompts.jsonl",
    build: Annotated[Path, typer.Option(help="Where the report and everything else goes.")] = Path(
        "build/demo"
    ),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Function URLs; another one if it is taken.")
    ] = 8080,
) -> None:
    """Serve real vLLM tokens from zero, then again with a warm pool, and compare."""
    config = demonstration.DemoConfig(agent, prompts, model, build, port, keep)
    report = asyncio.run(demonstration.run(config, Console()))
    if any(arm.failures for arm in report.arms):
        raise typer.Exit(1)
