"""`pilotlight model ...`: smaller checkpoints of a model, made and compared."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

import weights
from pilotlight.cli.model_compare import compare
from weights.cache.location import default_cache_dir
from weights.errors import WeightsError
from weights.quantize.checkpoint import check_request, quantize_checkpoint
from weights.sizes import format_size

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Models: quantize a checkpoint, compare what it changes and saves.",
)


@app.callback()
def model() -> None:
    """Models: quantize a checkpoint, compare what it changes and saves."""


app.command()(compare)


@contextlib.contextmanager
def _local(source: str, bar: Progress) -> Iterator[Path]:
    """The folder of a model; one in a bucket is brought into the cache, and stays there until it is done."""
    if "://" not in source:
        yield Path(source)
        return
    task = bar.add_task("fetching", total=None)
    pulled = weights.pull_blocking(
        source,
        cache_dir=default_cache_dir(os.environ),
        progress=lambda state: bar.update(task, completed=state.done_bytes, total=state.total_bytes),
    )
    try:
        yield pulled.path
    finally:
        pulled.release()


@app.command()
def quantize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder with config.json and safetensors, or s3://BUCKET/PREFIX."
        ),
    ],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The new folder; must be absent.")],
    *,
    scheme: Annotated[str, typer.Option("--scheme", help="w8a8-int8, w4a16, fp8 or bf16.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a smaller checkpoint that vLLM loads; the same command again resumes after an interruption."""
    if "://" in destination:
        raise typer.BadParameter(
            f"DST = {destination}, must be a local folder; then `aws s3 sync FOLDER {destination}`"
        )
    console = Console(stderr=True)
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        check_request(Path(destination), scheme)
        with shown as bar, _local(source, bar) as folder:
            task = bar.add_task(scheme, total=None)
            made = quantize_checkpoint(
                folder,
                Path(destination),
                scheme,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
    except WeightsError:
        raise
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
