"""`pilotlight model compare`: what smaller checkpoints of a model change and save."""

import asyncio
import json
import os
import signal
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pilotlight import terminal
from pilotlight.agent_reader import load_agent
from pilotlight.comparison import summary
from pilotlight.comparison.errors import CompareError, CompareInputError
from pilotlight.comparison.run import Request
from pilotlight.comparison.run import compare as run_comparison
from pilotlight.comparison.values import Comparison
from pilotlight.comparison.verdict import Limits, Verdict, verdicts
from pilotlight.compile_gpu import gpu_types
from pilotlight.gpu_settings import packaged_types
from pilotlight.stage_spec import Kind
from warmpool.adapters.price_file import read_prices
from warmpool.domain.cost import PriceList


def compare(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="REFERENCE MODEL...", help="Folders with checkpoints; the first is compared with."
        ),
    ],
    *,
    prompts: Annotated[
        Path,
        typer.Option(
            "--prompts",
            help="A prompt a line; .jsonl: an object with prompt or messages.",
            show_default=False,
        ),
    ],
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page with pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", metavar="TYPE", help="Count replicas on this GPU.", show_default="this machine's"
        ),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", help="Price list.", show_default="the packaged examples")
    ] = None,
    hourly: Annotated[
        str | None,
        typer.Option(
            "--hourly", metavar="PRICE", help="Of this machine, for what the price list does not have."
        ),
    ] = None,
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="NAME,...", help="Tasks of lm-eval, or their files.")
    ] = "",
    agent: Annotated[
        Path | None, typer.Option("--agent", help="Agent file whose engine options are used.")
    ] = None,
    engine_args: Annotated[
        str,
        typer.Option("--engine-args", metavar="JSON", help="vLLM's options; they win over the agent file's."),
    ] = "{}",
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", min=1, max=4096, help="Tokens of each answer.")
    ] = 64,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", min=2, help="Tokens of a request.", show_default="the model's, at most 4096"
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds of the throughput.")] = 3,
    starts: Annotated[int, typer.Option(min=1, max=100, help="Cold starts of each model.")] = 1,
    top: Annotated[
        int,
        typer.Option(min=-1, max=1000, help="Probabilities compared at each place; -1: all, which is slow."),
    ] = 20,
    max_rise: Annotated[
        float,
        typer.Option("--max-perplexity-rise", min=0, help="Percent above the reference that are permitted."),
    ] = 2.0,
    min_agreement: Annotated[
        float,
        typer.Option(
            "--min-agreement", min=0, max=100, help="Percent of the first choices that must be the same."
        ),
    ] = 95.0,
) -> None:
    """Measure what smaller checkpoints of a model change in its answers, and what they save."""
    if top == 0:
        raise typer.BadParameter("0 must be -1 or at least 1", param_hint="--top")
    args, types = _engine(agent, engine_args)
    page = None if report is None else _page(report)
    request = Request(
        models=models,
        prompts=prompts,
        prices=_prices(prices),
        types=types,
        gpu=gpu,
        hourly=_decimal(hourly),
        answer_tokens=answer_tokens,
        top=top,
        concurrency=concurrency,
        rounds=rounds,
        starts=starts,
        context=context,
        args=args,
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
    )
    found, vocabulary = asyncio.run(_run(request))
    limits = Limits(max_rise / 100, min_agreement / 100)
    said = verdicts(found, limits, vocabulary)
    # Figures first: a page that cannot be written must not cost the measurement.
    if as_json:
        typer.echo(json.dumps(summary.to_json(found, said), indent=2))
    else:
        _show(found, said)
    if page is not None and report is not None:
        try:
            page.write(report, found, said, limits)
        except OSError as error:
            raise CompareError(f"--report {report}: {error.strerror}") from None
        typer.echo(f"report: {report}", err=as_json)


async def _run(request: Request) -> tuple[Comparison, int]:
    """Compare with a bar on the terminal, or a line for each step."""
    task = asyncio.current_task()
    assert task is not None
    # As Ctrl-C: the replica that runs is ended, and its folder removed.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console = terminal.stderr_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("reading", total=None)
        last = ""

        def progress(what: str, done: int, total: int) -> None:
            nonlocal last
            if what != last and not console.is_terminal:
                typer.echo(what, err=True)
            last = what
            bar.update(shown, description=what, completed=done, total=total)

        try:
            return await run_comparison(request, progress)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


def _engine(agent: Path | None, text: str) -> tuple[dict[str, Any], Any]:
    """The engine's options, and the GPU types that are known."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--engine-args") from None
    if not isinstance(given, dict):
        raise typer.BadParameter("must be a JSON object", param_hint="--engine-args")
    if agent is None:
        return given, packaged_types()
    read = load_agent(agent)
    stage = next((stage for stage in read.spec.stages if stage.kind is Kind.GENERATE), None)
    if stage is None or stage.engine_type != "vllm":
        raise typer.BadParameter(f"{agent} has no stage of kind generate with vLLM", param_hint="--agent")
    return {**(stage.engine.args if stage.engine else {}), **given}, gpu_types(read)


def _prices(file: Path | None) -> PriceList:
    try:
        return read_prices(file)
    except (OSError, UnicodeDecodeError) as error:
        raise CompareInputError(f"--prices {file}: {getattr(error, 'strerror', None) or error}") from None


def _decimal(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0:
        raise typer.BadParameter(f"'{text}' must be a price such as 0.35", param_hint="--hourly")
    return value


def _page(report: Path) -> Any:
    """The module that writes pages, before anything is measured that could not be written."""
    there = report.expanduser().absolute().parent
    if report.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise typer.BadParameter(
            f"{report}: must be a file in a folder that can be written", param_hint="--report"
        )
    try:
        from pilotlight.comparison import page  # noqa: PLC0415 - needs packages of an extra
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"{error.name} is not installed; pages need: pip install 'pilotlight[experiments]'",
            param_hint="--report",
        ) from error
    return page


def _show(found: Comparison, said: list[Verdict]) -> None:
    console = terminal.console()
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for model in found.models:
        table.add_column(f"{model.checkpoint.name}\n{model.checkpoint.scheme}", justify="right")
    for label, cells in summary.rows(found):
        table.add_row(label, *cells)
    console.print(table)
    for verdict in said:
        typer.echo(f"\n{verdict.model}: {verdict.answer}")
        for reason in verdict.reasons:
            typer.echo(f"  {reason}")
    typer.echo("")
    for text in summary.explanations(found):
        typer.echo(text, err=True)
