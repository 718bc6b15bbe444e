"""`pilotlight weights ...`: models in S3, in the cache, and made on this machine."""

import dataclasses
import importlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from typer.core import TyperGroup

import weights
from pilotlight import terminal
from weights import make_model as making
from weights import plan
from weights.cache import inventory, verification
from weights.cache.cache import Cache
from weights.cache.location import CACHE_DIR_VARIABLE, default_cache_dir
from weights.manifest import Manifest, file_to_json
from weights.sizes import format_size, parse_size
from weights.sources import listing
from weights.sources.factory import open_source
from weights.wording import by_reason


class _Group(TyperGroup):
    """Imports `warm` when it is called: it alone needs the agent file and a cluster."""

    # The types of what Typer vendors from click are private to it.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and what is left of the arguments, with the real command in its place."""
        name, command, rest = super().resolve_command(ctx, args)
        if name == "warm":
            command = typer.main.get_command(importlib.import_module("pilotlight.cli.weights_warm").app)
        return name, command, rest


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    help="Model weights: pull, warm, ls, plan, verify, prune, rm, make-model, teach-model.",
)

URI = Annotated[str, typer.Argument(help="s3://BUCKET/PREFIX, file:///FOLDER or a path.")]
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache-dir", envvar=CACHE_DIR_VARIABLE, help="Default: in the user's cache folder."),
]
Patterns = Annotated[
    list[str] | None,
    typer.Option("--pattern", help="Only files that match, such as '*.json'; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _size(text: str | int) -> int:
    if isinstance(text, int):  # a default, which Typer parses like anything that is given
        return text
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Quota = Annotated[
    int | None,
    typer.Option(parser=_size, metavar="SIZE", help="Make room so that the cache stays below this."),
]


@app.command()
def pull(
    uri: URI,
    *,
    cache_dir: CacheDir = None,
    pattern: Patterns = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="For --load-format pilotlight, which streams them itself.")
    ] = False,
    quota: Quota = None,
    as_json: AsJson = False,
) -> None:
    """Bring a model into the cache, or find it there, and print its folder."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(uri, total=None)
        pulled = weights.pull_blocking(
            uri,
            cache_dir=cache_dir or default_cache_dir(os.environ),
            patterns=pattern,
            with_weights=not no_weights,
            quota_bytes=quota,
            progress=lambda state: bar.update(task, completed=state.done_bytes, total=state.total_bytes),
        )
    pulled.release()
    manifest = pulled.manifest
    if as_json:
        answer = {
            "path": str(pulled.path),
            "uri": manifest.uri,
            "files": [file_to_json(file) for file in manifest.files],
            "parameters": manifest.parameters,
            "dtypes": manifest.dtypes,
            "bytes_read": pulled.bytes_read,
            "from_cache": pulled.from_cache,
            "seconds": round(pulled.seconds, 3),
            "skipped": [dataclasses.asdict(skipped) for skipped in manifest.skipped],
        }
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(pulled.path)
    fetched = format_size(pulled.bytes_read)
    console.print(f"{manifest.parameters:,} parameters, {fetched} fetched in {pulled.seconds:.1f} s")
    _print_skipped(console, manifest)
    if pulled.cache is not None:
        _print_unchecked(console, [(file.path, file.unchecked_because) for file in manifest.files])


def _print_skipped(console: Console, manifest: Manifest) -> None:
    """Say which files and tensors of a repository do not count, by reason."""
    _print_by_reason(console, "skipped", [(skipped.path, skipped.reason) for skipped in manifest.skipped])
    ignored = [(name, "the index does not put them there") for name in manifest.ignored_tensors]
    _print_by_reason(console, "tensors ignored", ignored)


def _print_unchecked(console: Console, files: Iterable[tuple[str, str | None]]) -> None:
    """Say which files were not compared with a checksum of their source, by reason."""
    _print_by_reason(console, "not compared with a checksum", files)


def _print_by_reason(console: Console, what: str, files: Iterable[tuple[str, str | None]]) -> None:
    for reason, names in by_reason(files):
        # Names of files are no markup of rich's.
        console.print(f"{what} ({reason}): {names}", soft_wrap=True, markup=False, highlight=False)


@app.command("warm", help="Fill an agent's weights cache before its first replica starts.")
def _warm() -> None:
    """Stand where `pilotlight.cli.weights_warm` will be: `_Group` never calls it."""


@app.command("ls")
def ls(*, cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """List the models in the cache."""
    found = inventory.take_inventory(cache_dir or default_cache_dir(os.environ))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), default=str, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("MODEL", "FILES", "SIZE", "LAST USED", "FOLDER"):
        table.add_column(column, overflow="fold")
    for model in found.models:
        used = model.last_used.strftime("%Y-%m-%d %H:%M UTC") if model.last_used else ""
        size = format_size(model.total_bytes) + ("" if model.with_weights else " (without weights)")
        table.add_row(model.uri, str(model.files), size, used, model.path.name[:12])
    if found.models:
        terminal.console().print(table)
    unfinished = format_size(found.partial_bytes)
    compiled = format_size(found.archive_bytes)
    typer.echo(
        f"{found.folder}: {format_size(found.blob_bytes)} cached, {unfinished} unfinished, "
        f"{compiled} of compiled artefacts"
    )


@app.command("plan")
def plan_(uri: URI, *, as_json: AsJson = False) -> None:
    """Show what a load would read, in which order, after checking that the model may be loaded."""
    source = open_source(uri)
    try:
        manifest = listing.inspect(source)
    finally:
        source.close()
    found = plan.in_decoder_order(
        extent
        for header in manifest.headers
        for extent in plan.extents(header, plan.parts_of_weights(header))
    )
    rows = [
        {
            "file": extent.file,
            "begin": extent.begin,
            "bytes": extent.nbytes,
            "parts": len(extent.parts),
            "tensors": [tensor.name for tensor in extent.tensors],
        }
        for extent in found
    ]
    if as_json:
        answer = {
            "uri": manifest.uri,
            "parameters": manifest.parameters,
            "dtypes": manifest.dtypes,
            "bytes": manifest.total_bytes,
            "skipped": [dataclasses.asdict(skipped) for skipped in manifest.skipped],
            "ignored_tensors": list(manifest.ignored_tensors),
            "extents": rows,
        }
        typer.echo(json.dumps(answer, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("FILE", "FROM BYTE", "SIZE", "READS", "TENSORS"):
        table.add_column(column, overflow="fold")
    for extent in found:
        first, last = extent.tensors[0].name, extent.tensors[-1].name
        names = first if len(extent.tensors) == 1 else f"{first} … {last} ({len(extent.tensors)})"
        row = (extent.file, str(extent.begin), format_size(extent.nbytes), str(len(extent.parts)), names)
        table.add_row(*row)
    terminal.console().print(table)
    kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in sorted(manifest.dtypes.items()))
    typer.echo(f"{manifest.uri}: {manifest.parameters:,} parameters ({kinds})")
    _print_skipped(Console(stderr=True), manifest)


@app.command()
def verify(*, cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Read everything in the cache and compare it with its checksums; 1 if anything is damaged."""
    folder = cache_dir or default_cache_dir(os.environ)
    console = Console(stderr=True)
    with Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("verify", total=inventory.take_inventory(folder).blob_bytes)
        checks = list(verification.verify(folder, progress=lambda count: bar.advance(task, count)))
    damaged = [check for check in checks if check.problem]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        for check in damaged:
            typer.echo(f"{check.sha256}: {check.problem}")
        typer.echo(f"{len(checks) - len(damaged)} of {len(checks)} files are as they were fetched")
        _print_unchecked(console, [(check.sha256, check.unchecked_because) for check in checks])
    if damaged:
        raise typer.Exit(1)


@app.command()
def prune(
    *,
    quota: Annotated[int, typer.Option(parser=_size, metavar="SIZE", help="What may stay, such as 200GB.")],
    cache_dir: CacheDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what was used longest ago until the cache is within a quota; nothing that is in use."""
    cache = Cache(cache_dir or default_cache_dir(os.environ))
    try:
        pruned = cache.prune(quota, dry_run=dry_run)
    finally:
        cache.close()
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(pruned), indent=2))
        return
    verb = "would remove" if dry_run else "removed"
    typer.echo(
        f"{verb} {len(pruned.removed)} files ({format_size(pruned.removed_bytes)}), "
        f"{format_size(pruned.kept_bytes)} stay, {format_size(pruned.in_use_bytes)} of them in use"
    )


@app.command("rm")
def rm(
    uri: URI,
    *,
    cache_dir: CacheDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a model from the cache, except what other models share; 1 if any of it is in use."""
    cache = Cache(cache_dir or default_cache_dir(os.environ))
    try:
        pruned = cache.remove_model(uri, dry_run=dry_run)
    finally:
        cache.close()
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(pruned), indent=2))
    else:
        verb = "would remove" if dry_run else "removed"
        in_use = f", {format_size(pruned.in_use_bytes)} stay in use" if pruned.in_use_bytes else ""
        typer.echo(f"{uri}: {verb} {len(pruned.removed)} files ({format_size(pruned.removed_bytes)}){in_use}")
    if pruned.in_use_bytes:
        raise typer.Exit(1)


@app.command("make-model")
def make_model(
    folder: Annotated[Path, typer.Argument(help="Absent or empty.")],
    *,
    size: Annotated[
        int | None, typer.Option(parser=_size, metavar="SIZE", help="Of the weights, such as 2GB.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and size give the same bytes.")] = 0,
    shard_size: Annotated[
        int, typer.Option(parser=_size, metavar="SIZE", help="Weights above this go into several files.")
    ] = making.SHARD_BYTES,
    as_json: AsJson = False,
) -> None:
    """Make a random but valid Llama with a tokenizer: any size, no download."""
    try:
        made = making.make_model(folder, size=size, seed=seed, shard_bytes=shard_size)
    except (ValueError, FileExistsError) as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(made), default=str, indent=2))
        return
    typer.echo(f"{made.path}: {made.parameters:,} parameters, {format_size(made.weight_bytes)}")


@app.command("teach-model")
def teach_model(
    folder: Annotated[Path, typer.Argument(help="Absent or empty.")],
    dialogues: Annotated[
        Path, typer.Option("--dialogues", help='On each line {"messages": [...]} as OpenAI has them.')
    ],
) -> None:
    """Make a small Llama that knows dialogues by heart, calls of tools included: for examples and tests.

    It answers their questions word for word, and nothing else.
    """
    from weights import teach_model as teaching  # noqa: PLC0415

    console = Console(stderr=True)
    try:
        known = teaching.read_dialogues(dialogues)
        with console.status("teaching ...") as status:
            taught = teaching.teach_model(
                folder,
                known,
                tell=lambda step, sure: status.update(f"step {step}: the least sure token has {sure:.0%}"),
            )
    except OSError as error:
        raise typer.BadParameter(f"{error.filename or dialogues}: {error.strerror or error}") from None
    except teaching.TeachingError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(
        f"{taught.path}: knows {taught.dialogues} dialogues with {taught.answers} answers by heart "
        f"({taught.steps} steps)"
    )
