"""`pilotlight rollout ...`: new Revisions that get the traffic in steps."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from knative.client.resources import WARM_POOL, Object
from pilotlight import rollouts, terminal
from pilotlight.cli.options import Kubeconfig, Namespace
from pilotlight.kubeconfig import connect
from pilotlight.rollouts import Verb

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Rollouts of new Revisions in steps: status, promote, abort, pause, resume.",
)

Name = Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a Service or of its WarmPool.")]


@app.command("status")
def status(
    name: Annotated[str | None, typer.Argument(help="NAME or NAMESPACE/NAME; default: all.")] = None,
    *,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print what the status says, as JSON.")] = False,
) -> None:
    """Show where rollouts are, what they wait for, and what the latest look found."""

    async def run() -> list[Object]:
        async with connect(kubeconfig) as cluster:
            if name is not None:
                space, plain = _split(name, namespace)
                return [await rollouts.find(cluster, plain, space)]
            pools = await cluster.list(WARM_POOL, None)
            return [pool for pool in pools if (pool.get("spec") or {}).get("rollout") is not None]

    pools = asyncio.run(run())
    if as_json:
        shown = {f"{_key(pool)}": rollouts.state(pool) for pool in pools}
        typer.echo(json.dumps(shown, indent=2))
        return
    if not pools:
        typer.echo("no rollouts: write `rollout: {}` on a stage")
        return
    if name is not None:
        _show(pools[0])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("SERVICE", "PHASE", "RUNNING", "NEW", "%", "NEXT %", "DETAIL"):
        table.add_column(column, overflow="fold")
    for pool in pools:
        table.add_row(*map(escape, _row(pool)))
    terminal.console().print(table)


@app.command("promote")
def promote(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Give the new Revision all of the traffic as soon as it is warm, whatever the analysis says."""
    canary = _order(name, namespace, kubeconfig, "promote")
    typer.echo(f"{canary} gets all of the traffic as soon as it is warm")


@app.command("abort")
def abort(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Give all of the traffic back to the running Revision."""
    canary = _order(name, namespace, kubeconfig, "abort")
    typer.echo(f"{canary} loses its traffic; `pilotlight rollout resume` begins again with it")


@app.command("pause")
def pause(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Take no further step until `resume`; a bad Revision is rolled back nevertheless."""
    namespace, plain = _split(name, namespace)

    async def run() -> None:
        async with connect(kubeconfig) as cluster:
            await rollouts.pause(cluster, plain, namespace)

    asyncio.run(run())
    typer.echo(f"the rollout of {namespace}/{plain} is paused")


@app.command("resume")
def resume(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Go on after a pause, after a rollback (from the first step), or after an edit of the traffic."""
    canary = _order(name, namespace, kubeconfig, "resume")
    typer.echo(f"the rollout of {canary} goes on")


def _order(name: str, namespace: str, kubeconfig: Path | None, verb: Verb) -> str:
    namespace, plain = _split(name, namespace)

    async def run() -> str:
        async with connect(kubeconfig) as cluster:
            return await rollouts.order(cluster, plain, namespace, verb)

    return asyncio.run(run())


def _show(pool: Object) -> None:
    found = rollouts.state(pool)
    typer.echo(f"{_key(pool)}: {found.get('phase', 'no controller has seen it yet')}")
    if found.get("stable"):
        typer.echo(f"  running  {found['stable']}  {100 - found.get('percent', 0)} %")
    if found.get("canary"):
        following = f", next {found['nextPercent']} %" if found.get("nextPercent") else ""
        since = f" since {found['since']}" if found.get("since") else ""
        typer.echo(f"  new      {found['canary']}  {found.get('percent', 0)} %{since}{following}")
    if found.get("detail"):
        typer.echo(f"  {found['detail']}")
    for entry in found.get("analysis") or ():
        typer.echo(f"  {entry['outcome']:4}  {entry['name']}: {entry['detail']}")


def _row(pool: Object) -> list[str]:
    found: Mapping[str, Any] = rollouts.state(pool)
    return [
        f"{pool['metadata']['namespace']}/{pool['spec']['target']}",
        str(found.get("phase", "?")),
        str(found.get("stable", "")),
        str(found.get("canary", "")),
        str(found.get("percent", "")),
        str(found.get("nextPercent", "")),
        str(found.get("detail", "")),
    ]


def _key(pool: Object) -> str:
    return f"{pool['metadata']['namespace']}/{pool['spec']['target']}"


def _split(name: str, namespace: str) -> tuple[str, str]:
    space, slash, plain = name.partition("/")
    return (space, plain) if slash else (namespace, name)
