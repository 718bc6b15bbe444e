"""`pilotlight cost`: what pools have cost, by Service, agent, key or team."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from knative.client.resources import SERVICE, WARM_POOL
from pilotlight import caller_use, kubeconfig, paths, terminal
from pilotlight.cost_account import CostShare, service_costs, shares
from warmpool.adapters.prometheus_api import PrometheusServer

app = typer.Typer()


@app.command()
def cost(
    *,
    by: Annotated[
        Literal["service", "agent", "key", "team"], typer.Option(help="What a line stands for.")
    ] = "service",
    prometheus: Annotated[
        str | None,
        typer.Option(envvar="PILOTLIGHT_PROMETHEUS", help="URL of a Prometheus that scrapes the replicas."),
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: all.")] = None,
    state: Annotated[
        Path | None, typer.Option("--state", envvar="PILOTLIGHT_STATE", help="State folder of the platform.")
    ] = None,
    kubeconfig_file: Annotated[
        Path | None,
        typer.Option(
            "--kubeconfig", envvar="KUBECONFIG", help="Default: the platform that `pilotlight up` runs."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as JSON.")] = False,
) -> None:
    """Show what warm pools have cost in their period, divided by what each caller used."""
    directory = (state or paths.state_dir()).expanduser().absolute()

    async def run() -> list[CostShare]:
        async with kubeconfig.connect(kubeconfig_file, directory) as cluster:
            pools, services = await asyncio.gather(
                cluster.list(WARM_POOL, namespace), cluster.list(SERVICE, namespace)
            )
            costs, since = service_costs(pools, services)
            if prometheus is not None:
                now = datetime.now(UTC)
                uses = await caller_use.of_prometheus(PrometheusServer(prometheus), since or now, now)
            else:
                uses = await caller_use.of_running_replicas(cluster)
                if kubeconfig_file is None or kubeconfig_file.parent == directory:
                    uses += caller_use.of_ended_replicas(directory / "logs")
        return shares(costs, [use for use in uses if namespace in {None, use.namespace}], by)

    lines = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps([_json(line) for line in lines], indent=2))
        return
    if not lines:
        typer.echo("nothing has cost or used anything that is counted")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (by.upper(), "COST", "REQUESTS", "TOKENS"):
        table.add_column(column, overflow="fold")
    for line in lines:
        amount = "-" if line.amount is None else f"{line.amount:.2f} {line.currency}"
        table.add_row(line.name, amount, f"{line.requests:.0f}", f"{line.tokens:.0f}")
    terminal.console().print(table)
    if by in {"key", "team"} and prometheus is None:
        typer.echo(
            "use is what replicas counted themselves; with --prometheus it is the whole period's", err=True
        )


def _json(line: CostShare) -> dict[str, Any]:
    amount = None if line.amount is None else f"{line.amount:.4f}"
    return {
        "name": line.name,
        "cost": amount,
        "currency": line.currency or None,
        "requests": line.requests,
        "tokens": line.tokens,
    }
