"""`pilotlight experiment recommend`: the WarmPool to apply, for a trace or a Service's recorded demand."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import typer
import yaml
from rich.table import Table

from pilotlight import terminal
from pilotlight.cli import trace_source
from warmpool.adapters.price_file import read_prices
from warmpool.domain.cost import PriceList
from warmpool.domain.pool import KIND, WarmPoolSpec, WarmPoolTemplate
from warmpool.experiments import imports
from warmpool.experiments import recommend as recommending
from warmpool.experiments.cold_start import Constant
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.experiment import ServiceTime
from warmpool.experiments.parts import service_model
from warmpool.experiments.recommend import Objective, Recommendation
from warmpool.experiments.simulator import Load, Replica
from warmpool.experiments.trace import Trace

_A_MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
_DEFAULT_RATE = 0.01
_DEFAULT_LOAD_S = 30.0


def recommend(
    trace: trace_source.TraceFile = None,
    *,
    history: trace_source.History = None,
    prometheus: trace_source.PrometheusUrl = None,
    prometheus_token_file: trace_source.TokenFile = None,
    prometheus_ca_file: trace_source.CaFile = None,
    service: trace_source.Service = None,
    last: trace_source.Last = trace_source.DEFAULT_LAST,
    seed: trace_source.Seed = 0,
    skip_bad_rows: trace_source.SkipBadRows = False,
    target: Annotated[
        str | None,
        typer.Option(help="The Service that the WarmPool is for.", show_default="--service, or my-service"),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Its namespace.", show_default="--service's, or default"),
    ] = None,
    cold_start_rate: Annotated[
        str | None,
        typer.Option(help="Objective: the acceptable share of cold starts.", show_default="1%"),
    ] = None,
    ttft_p95: Annotated[
        float | None,
        typer.Option("--ttft-p95", min=0.001, help="Objective: p95 of the time to the first token, seconds."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0.01, help="Objective: what a month may cost, in the price list's currency."),
    ] = None,
    today: Annotated[
        Path | None,
        typer.Option(
            help="What you have today: a WarmPool, a ScaledObject, a CronHPA or a Service with min-scale.",
            show_default="no pool",
        ),
    ] = None,
    load_s: Annotated[
        float | None,
        typer.Option(
            "--load-s",
            min=0.1,
            help="Seconds that a replica starts.",
            show_default="the history's p95, or 30",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests that a replica takes at once.")] = 1,
    service_s: Annotated[
        float | None, typer.Option("--service-s", min=0.001, help="Seconds of every request.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="GPU in the price list.", show_default="its default")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of one replica.")] = 1,
    prices: Annotated[
        Path | None, typer.Option("--prices", help="Price list.", show_default="the packaged examples")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Instant of the first request; by default the trace's own.")
    ] = None,
    time_zone: Annotated[str, typer.Option("--time-zone", help="Whose clock the windows follow.")] = "UTC",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the WarmPool and the comparison as JSON.")
    ] = False,
) -> None:
    """Print the WarmPool to apply as YAML; how it compares goes to standard error."""
    # Everything is checked before the trace is read, which may take long.
    begins, zone = _instant(start), _zone(time_zone)
    objective = _objective(cold_start_rate, ttft_p95, budget)
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
    space, name = ("default", "my-service") if service is None else chosen.key
    space, name = namespace or space, target or name
    WarmPoolSpec.parse({"target": name})
    listed = read_prices(prices)
    hourly = _hourly(listed, gpu)
    has = _today(today)
    read = chosen.read(trace_source.now())
    if begins is None and read.start is None:
        typer.echo("the trace has no dates: its first request is taken for Monday 00:00 (--start)", err=True)
    load_s = load_s or chosen.measured_cold_start_s() or _DEFAULT_LOAD_S
    with _progress() as told:
        found = recommending.recommend(
            _load(read, service_s),
            Replica(cold_starts=Constant(load_s), gpus=gpus, concurrency=concurrency, hourly=hourly),
            start=begins or read.start or _A_MONDAY,
            time_zone=zone,
            objective=objective,
            today=has,
            currency=listed.currency,
            progress=told,
        )
    pool = found.spec.to_object(name=name, namespace=space, target=name) if found.spec else None
    if as_json:
        typer.echo(json.dumps(_json(found, pool, listed.currency), indent=2))
        return
    _show(found, listed.currency, load_s)
    if pool is None:
        typer.echo("no pool is best: Knative's autoscaler alone keeps the objective", err=True)
        return
    for line in _comments(found, listed.currency):
        typer.echo(f"# {line}")
    typer.echo(yaml.safe_dump(pool, sort_keys=False, width=110), nl=False)


def _objective(rate: str | None, ttft_p95_s: float | None, budget: float | None) -> Objective:
    given = [value for value in (rate, ttft_p95_s, budget) if value is not None]
    if len(given) > 1:
        raise ExperimentError("give at most one of --cold-start-rate, --ttft-p95 and --budget")
    if ttft_p95_s is not None or budget is not None:
        return Objective(ttft_p95_s=ttft_p95_s, monthly_budget=budget)
    if rate is None:
        return Objective(cold_start_rate=_DEFAULT_RATE)
    try:
        share = float(rate.removesuffix("%")) / (100 if rate.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ExperimentError(
            f'--cold-start-rate = {rate!r}, must be a share such as "1%" or 0.01, above 0 and at most 1'
        )
    return Objective(cold_start_rate=share)


def _hourly(listed: PriceList, gpu: str | None) -> float:
    price = listed.of(gpu)
    if price is None:
        raise ExperimentError(f"--gpu {gpu}: has no price; must be one of {', '.join(listed.gpus)}")
    return float(price.hourly)


def _today(file: Path | None) -> WarmPoolTemplate | None:
    """The setting of today, as a WarmPool."""
    if file is None:
        return None
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"--today {file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExperimentError(f"--today {file}: is not YAML: {error}") from error
    if isinstance(document, dict) and document.get("kind") == KIND:
        return WarmPoolSpec.parse(document.get("spec"))
    try:
        return imports.import_pool(document).spec
    except ExperimentError as error:
        raise ExperimentError(f"--today {file}: {error}") from error


def _load(trace: Trace, service_s: float | None) -> Load:
    """The requests, and when each has its first token: after its prompt."""
    model = service_model(ServiceTime(fixed_seconds=service_s))
    times = model.times(trace)
    first = np.minimum(times, model.base_s + model.input_token_s * np.nan_to_num(trace.input_tokens))
    return Load(trace.names[0] if trace.names else "function", trace.arrivals, times, first)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    with terminal.stderr_console().status("reading") as status:
        yield status.update


def _show(found: Recommendation, currency: str, load_s: float) -> None:
    typer.echo(
        f"chosen by {found.trained_days:.1f} days, judged by the {found.held_back_days:.1f} days after them, "
        f"for {found.objective}; a start takes {load_s:.1f} s:",
        err=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "cold", "TTFT p50", "TTFT p95", "GPU-hours", f"cost {currency}", "30 such days"):
        table.add_column(name, justify="right" if name else "left")
    for arm in found.arms:
        table.add_row(
            arm.name,
            f"{arm.cold_rate:.2%}",
            f"{arm.ttft_p50_s:.1f} s",
            f"{arm.ttft_p95_s:.1f} s",
            f"{arm.gpu_s / 3600:,.1f}",
            f"{arm.cost:,.2f}",
            f"{arm.monthly:,.2f}",
        )
    terminal.stderr_console().print(table)
    typer.echo(found.confidence, err=True)
    if found.forecast_buys:
        typer.echo(found.forecast_buys, err=True)


def _comments(found: Recommendation, currency: str) -> Iterator[str]:
    """What to expect, for whoever opens the file later."""
    best = found.arms[0]
    yield (
        f"Expected: {best.monthly:,.2f} {currency} in 30 days, {best.cold_rate:.2%} cold starts, "
        f"p95 TTFT {best.ttft_p95_s:.1f} s."
    )
    for arm in found.arms[1:]:
        yield f"{arm.name}: {arm.monthly:,.2f} {currency}, {arm.cold_rate:.2%} cold, {arm.ttft_p95_s:.1f} s."
    yield found.confidence
    if found.forecast_buys:
        yield found.forecast_buys


def _json(found: Recommendation, pool: dict[str, Any] | None, currency: str) -> dict[str, Any]:
    return {
        "pool": pool,
        "objective": str(found.objective),
        "kept": found.kept,
        "trained_days": round(found.trained_days, 3),
        "held_back_days": round(found.held_back_days, 3),
        "currency": currency,
        "arms": [
            {
                "name": arm.name,
                "cold_start_rate": arm.cold_rate,
                "ttft_p50_s": arm.ttft_p50_s,
                "ttft_p95_s": arm.ttft_p95_s,
                "gpu_seconds": arm.gpu_s,
                "cost": arm.cost,
                "cost_a_month": arm.monthly,
                "daily_cold_start_rates": list(arm.daily_cold_rates),
            }
            for arm in found.arms
        ],
        "confidence": found.confidence,
        "forecast_buys": found.forecast_buys or None,
    }


def _instant(text: str | None) -> datetime | None:
    """The instant of `--start`; None without it."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ExperimentError(f"--start {text}: must be an instant such as 2026-03-02T00:00:00Z") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ExperimentError(f"--time-zone {name}: must be a zone such as Europe/Berlin") from None
    return name
