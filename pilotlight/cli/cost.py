"""`pilotlight cost`: what pools have cost, by Service, pool, agent, key, team or reason."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from knative.client.resources import SERVICE, WARM_POOL
from pilotlight import caller_use, cost_export, kubeconfig, metrics_page, paths, terminal
from pilotlight.cli.options import Kubeconfig
from pilotlight.cost_account import CallerUse, CostShare, ServiceCost, service_costs, shares
from warmpool.adapters.prometheus_api import PrometheusServer

app = typer.Typer(add_completion=False)


@app.command()
def cost(
    *,
    by: Annotated[
        Literal["service", "pool", "agent", "key", "team", "reason"],
        typer.Option(help="What a line stands for."),
    ] = "service",
    form: Annotated[
        Literal["table", "json", "csv", "parquet"],
        typer.Option("--format", help="csv and parquet: a row for each pool and name, columns as in FOCUS."),
    ] = "table",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for csv or parquet. Default: csv is printed.")
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(envvar="PILOTLIGHT_PROMETHEUS", help="URL of a Prometheus that scrapes the replicas."),
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: all.")] = None,
    state: Annotated[
        Path | None, typer.Option("--state", envvar="PILOTLIGHT_STATE", help="State folder of the platform.")
    ] = None,
    kubeconfig_file: Kubeconfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as JSON.")] = False,
) -> None:
    """Show what warm pools have cost in their period, divided by what each caller used."""
    if form == "parquet" and output is None:
        raise typer.BadParameter("--format parquet needs --output FILE")
    if output is not None and form not in {"csv", "parquet"}:
        raise typer.BadParameter(f"--output {output} needs --format csv or parquet")
    directory = (state or paths.state_dir()).expanduser().absolute()

    async def run() -> tuple[list[ServiceCost], list[CallerUse]]:
        async with kubeconfig.connect(kubeconfig_file, directory) as cluster:
            pools, services = await asyncio.gather(
                cluster.list(WARM_POOL, namespace), cluster.list(SERVICE, namespace)
            )
            costs, since = service_costs(pools, services)
            if prometheus is not None:
                now = datetime.now(UTC)
                uses = await caller_use.of_prometheus(PrometheusServer(prometheus), since or now, now)
            else:
                uses = await caller_use.of_running_replicas(cluster, metrics_page.replica_tls(directory))
                if kubeconfig_file is None or kubeconfig_file.parent == directory:
                    uses += caller_use.of_ended_replicas(directory / "logs")
        return costs, [use for use in uses if namespace in {None, use.namespace}]

    costs, uses = asyncio.run(run())
    if form in {"csv", "parquet"}:
        _export(cost_export.rows(costs, uses, by), form, output)
        return
    lines = shares(costs, uses, by)
    if as_json or form == "json":
        typer.echo(json.dumps([_json(line) for line in lines], indent=2))
        return
    _show(lines, by)
    if lines and by in {"key", "team"} and prometheus is None:
        typer.echo(
            "use is what replicas counted themselves; with --prometheus it is the whole period's", err=True
        )


def _show(lines: list[CostShare], by: str) -> None:
    if not lines:
        typer.echo("nothing has cost or used anything that is counted")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (by.upper(), "COST", "REQUESTS", "TOKENS"):
        table.add_column(column, overflow="fold")
    for line in lines:
        amount = "-" if line.amount is None else f"{line.amount:.2f} {line.currency}"
        used = ("-" if count is None else f"{count:.0f}" for count in (line.requests, line.tokens))
        table.add_row(line.name, amount, *used)
    terminal.console().print(table)


def _export(rows: list[cost_export.Row], form: str, output: Path | None) -> None:
    if form == "csv":
        text = cost_export.as_csv(rows)
        if output is None:
            typer.echo(text, nl=False)
        else:
            output.write_text(text, encoding="utf-8")
        return
    assert output is not None
    try:
        cost_export.write_parquet(rows, output)
    except ImportError:
        raise typer.BadParameter("--format parquet needs: pip install 'pilotlight[parquet]'") from None


def _json(line: CostShare) -> dict[str, Any]:
    amount = None if line.amount is None else f"{line.amount:.4f}"
    return {
        "name": line.name,
        "cost": amount,
        "currency": line.currency or None,
        "requests": line.requests,
        "tokens": line.tokens,
    }
