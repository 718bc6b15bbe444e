"""`pilotlight experiment ...`: what warm pools would cost on a trace, and what users would feel."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pilotlight import terminal

try:
    from pilotlight.cli import experiment_live, trace_source
    from pilotlight.cli.recommend import recommend
    from warmpool.adapters.price_file import read_prices
    from warmpool.experiments import describe as describing
    from warmpool.experiments import imports as importing
    from warmpool.experiments import report as reporting
    from warmpool.experiments import run as running
    from warmpool.experiments.errors import ExperimentError
    from warmpool.experiments.experiment import ServiceTime, read_experiment
    from warmpool.experiments.formats import write_trace
    from warmpool.experiments.parts import service_model
except ModuleNotFoundError as error:
    raise typer.BadParameter(
        f"{error.name} is not installed; experiments need: pip install 'pilotlight[experiments]'"
    ) from error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Experiments: what warm pools would cost on a trace, and what users would feel.",
)

app.command()(experiment_live.replay)
app.command()(experiment_live.calibrate)
app.command()(experiment_live.compare)
app.command()(recommend)

_INTERRUPTED = 130

Prices = Annotated[
    Path | None, typer.Option("--prices", help="Price list.", show_default="the packaged examples")
]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Experiment file.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the report.", show_default="build/experiments/NAME"),
    ] = None,
    prices: Prices = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run every arm on the same requests and write a report; Ctrl-C keeps the arms that are done."""
    experiment = read_experiment(file)
    prepared = running.prepare(experiment, read_prices(prices))
    folder = out or Path("build/experiments") / experiment.metadata.name
    _check_folder(folder)
    stop = threading.Event()

    def interrupt(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    # The first Ctrl-C ends the run in order, also while its code is being compiled; the second at once.
    signal.signal(signal.SIGINT, interrupt)
    typer.echo(f"{len(prepared.trace):,} requests, {len(experiment.spec.arms)} arms", err=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=terminal.stderr_console(),
        transient=True,
    ) as bars:
        tasks = {arm.name: bars.add_task(arm.name, total=1.0) for arm in experiment.spec.arms}

        def progress(name: str, share: float) -> bool:
            bars.update(tasks[name], completed=share)
            return not stop.is_set()

        report = running.run(prepared, progress=progress)
    if not report.arms:
        typer.echo("interrupted before the first arm was finished; nothing is written", err=True)
        raise typer.Exit(_INTERRUPTED)
    try:
        files = reporting.write(report, folder)
    except OSError as error:
        raise ExperimentError(f"{folder}: the report cannot be written: {error.strerror}") from error
    if as_json:
        typer.echo(json.dumps(reporting.to_json(report), indent=2))
    else:
        _show(report)
        typer.echo(f"report: {files[0]}")
    if not report.complete:
        typer.echo("interrupted: the report has the arms that were finished", err=True)
        raise typer.Exit(_INTERRUPTED)


def _check_folder(folder: Path) -> None:
    """Whether a report can be written there, before anything is simulated."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ExperimentError(f"--out {folder}: {there} is a file, must be a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ExperimentError(f"--out {folder}: {there} cannot be written")


def _show(report: running.ExperimentReport) -> None:
    console = terminal.console()
    console.print(
        f"{report.requests:,} requests in {report.duration_s / 3600:,.1f} hours"
        + (f", {report.skipped_rows:,} rows skipped" if report.skipped_rows else "")
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm")
    rows = reporting.rows(report)
    woke = any(row.woke_rate for row in rows)
    for name in (
        "cold",
        *(("woke",) if woke else ()),
        "wait p95",
        "TTFT p50",
        "TTFT p95",
        "GPU-hours",
        "over bound",
        f"cost {report.currency}",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.arm,
            f"{row.cold_rate:.2%}",
            *((f"{row.woke_rate:.2%}",) if woke else ()),
            _seconds(row.wait_p95_s),
            _seconds(row.ttft_p50_s),
            _seconds(row.ttft_p95_s),
            f"{row.gpu_s / 3600:,.2f}",
            "-" if row.over_bound is None else f"{row.over_bound:.2f}",
            f"{row.cost:,.2f}",
        )
    console.print(table)
    best = reporting.best(report)
    goal = f"at most {report.objective:.2%} cold"
    console.print(f"cheapest with {goal}: {best}" if best else f"no arm keeps {goal}")


@app.command()
def describe(
    trace: trace_source.TraceFile = None,
    *,
    history: trace_source.History = None,
    prometheus: trace_source.PrometheusUrl = None,
    prometheus_token_file: trace_source.TokenFile = None,
    prometheus_ca_file: trace_source.CaFile = None,
    service: trace_source.Service = None,
    last: trace_source.Last = trace_source.DEFAULT_LAST,
    service_s: Annotated[
        float | None, typer.Option("--service-s", min=0.001, help="Seconds of every request.")
    ] = None,
    seed: trace_source.Seed = 0,
    skip_bad_rows: trace_source.SkipBadRows = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a trace's rate, bursts, rhythm and concurrency."""
    chosen = trace_source.source(
        trace,
        history,
        prometheus,
        prometheus_token_file,
        prometheus_ca_file,
        service,
        last,
        seed,
        skip_bad_rows=skip_bad_rows,
    )
    read = chosen.read(trace_source.now())
    model = service_model(ServiceTime(fixed_seconds=service_s))
    found = describing.describe(read, model.times(read))
    if as_json:
        typer.echo(json.dumps({name: getattr(found, name) for name in type(found).__slots__}, indent=2))
        return
    p50, p90, p99, most = found.concurrency
    lines = [
        ("requests", f"{found.requests:,} of {found.functions:,} functions"),
        ("duration", f"{found.duration_s / 3600:,.2f} hours"),
        ("rate", "-" if found.rate is None else f"{found.rate:.3g} requests/s"),
        ("gaps", _figure(found.gap_variation, "coefficient of variation {:.2f} (1: independent)")),
        ("bursts", _figure(found.dispersion, "variance over mean per minute {:.1f} (1: independent)")),
        *(
            ("rhythm", f"autocorrelation {value:.2f} after {_span(lag)}")
            for lag, value in found.autocorrelation.items()
            if value is not None
        ),
        ("service", f"{found.service_mean_s:.3g} s in the mean"),
        (
            "at once",
            f"p50 {p50}, p90 {p90}, p99 {p99}, most {most}; nothing {found.idle_share:.0%} of the time",
        ),
    ]
    for name, text in lines:
        typer.echo(f"{name:<10}{text}")
    for row in read.bad_rows[:10]:
        typer.echo(f"skipped line {row.line}: {row.reason}", err=True)
    if len(read.bad_rows) > 10:
        typer.echo(f"and {len(read.bad_rows) - 10} more rows", err=True)


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(metavar="TRACE.csv", help="Trace file to write.")],
    *,
    service: trace_source.Service,
    history: trace_source.History = None,
    prometheus: trace_source.PrometheusUrl = None,
    prometheus_token_file: trace_source.TokenFile = None,
    prometheus_ca_file: trace_source.CaFile = None,
    last: trace_source.Last = trace_source.DEFAULT_LAST,
    seed: trace_source.Seed = 0,
) -> None:
    """Write the recorded demand of a Service as a plain trace, for `experiment run` and other tools."""
    chosen = trace_source.source(
        None, history, prometheus, prometheus_token_file, prometheus_ca_file, service, last, seed
    )
    read = chosen.read(trace_source.now())
    try:
        count = write_trace(read, out)
    except OSError as error:
        raise ExperimentError(f"{out}: cannot be written: {error.strerror}") from error
    typer.echo(f"{count:,} requests of {read.duration_s / 86_400:,.1f} days written to {out}")


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.yaml", help="A ScaledObject of KEDA, a CronHPA, or a Service with min-scale."
        ),
    ],
    *,
    target: Annotated[
        str | None, typer.Option(help="The Knative Service.", show_default="what the object scales")
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
    arm: Annotated[bool, typer.Option("--arm", help="Print an arm for an experiment file instead.")] = False,
) -> None:
    """Print the WarmPool that holds what another autoscaler's object holds, as YAML."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{file}: is not YAML: {error}") from error
    try:
        found = importing.import_pool(document)
    except ExperimentError as error:
        raise ExperimentError(f"{file}: {error}") from error
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    name = target or found.target
    content: object = (
        [{"name": f"today: {name}", "pool": found.spec.to_wire()}]
        if arm
        else found.spec.to_object(name=name, namespace=namespace, target=name)
    )
    typer.echo(yaml.safe_dump(content, sort_keys=False, width=110), nl=False)


def _figure(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


def _span(seconds: int) -> str:
    for size, name in ((604_800, "week"), (86_400, "day"), (3600, "hour")):
        if seconds % size == 0:
            count = seconds // size
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{seconds // 60} minutes"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"
