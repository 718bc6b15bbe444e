"""`pilotlight model ...`: smaller checkpoints of a model, made and compared."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from pilotlight.cli.model_compare import compare
from weights.quantize.checkpoint import quantize_checkpoint
from weights.sizes import format_size

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Models: quantize a checkpoint, compare.")


@app.callback()
def model() -> None:
    """Models: quantize a checkpoint, compare what it changes and saves."""


app.command()(compare)


@app.command()
def quantize(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder with config.json and safetensors.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The new folder; must be absent.")],
    *,
    scheme: Annotated[str, typer.Option("--scheme", help="w8a8-int8, w4a16, fp8 or bf16.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a smaller checkpoint that vLLM loads; the same command again resumes after an interruption."""
    for name, value in (("SRC", source), ("DST", destination)):
        if "://" in value:
            raise typer.BadParameter(
                f"{name} = {value}, must be a local folder (`pilotlight weights pull` brings a model here)"
            )
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(scheme, total=None)
            made = quantize_checkpoint(
                Path(source),
                Path(destination),
                scheme,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        typer.echo(f"{destination} was not written: {error}; the same command goes on from here", err=True)
        raise typer.Exit(1) from None
    if as_json:
        answer = {"path": str(made.path), "source_bytes": made.source_bytes, "bytes": made.bytes}
        typer.echo(json.dumps(answer | {"resumed_files": made.resumed_files}, indent=2))
        return
    typer.echo(made.path)
    ratio = made.bytes / made.source_bytes
    console.print(
        f"{format_size(made.source_bytes)} to {format_size(made.bytes)} ({ratio:.0%} of the source)"
    )
