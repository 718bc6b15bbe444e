"""`pilotlight cost`: what pools have cost, by Service, agent, key or team."""

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from knative.client.cluster import Cluster
from knative.client.errors import NotFound
from knative.client.resources import SERVICE, WARM_POOL
from knative.labels import AGENT_LABEL
from pilotlight import caller_use, kubeconfig, paths, terminal
from pilotlight.cost_account import CostShare, ServiceCost, shares
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
            costs, since = await _costs(cluster, namespace)
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


async def _costs(cluster: Cluster, namespace: str | None) -> tuple[list[ServiceCost], datetime | None]:
    """What each pool has cost, and when the earliest of their periods began."""
    found: list[ServiceCost] = []
    begun: list[datetime] = []
    for pool in await cluster.list(WARM_POOL, namespace):
        meta, target = pool["metadata"], str((pool.get("spec") or {}).get("target", ""))
        account = (pool.get("status") or {}).get("cost") or {}
        if "toDate" not in account:
            continue
        begun += [datetime.fromisoformat(account["periodStart"])] if "periodStart" in account else []
        agent = await _agent(cluster, target, meta["namespace"])
        amount, currency = Decimal(str(account["toDate"])), str(account.get("currency", ""))
        found.append(ServiceCost(meta["namespace"], target, agent, amount, currency))
    return found, min(begun, default=None)


async def _agent(cluster: Cluster, service: str, namespace: str) -> str:
    try:
        found = await cluster.get(SERVICE, service, namespace)
    except NotFound:
        return ""
    return str((found["metadata"].get("labels") or {}).get(AGENT_LABEL, ""))


def _json(line: CostShare) -> dict[str, Any]:
    amount = None if line.amount is None else f"{line.amount:.4f}"
    return {
        "name": line.name,
        "cost": amount,
        "currency": line.currency or None,
        "requests": line.requests,
        "tokens": line.tokens,
    }
