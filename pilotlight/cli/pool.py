"""`pilotlight pool ...`: what warm pools hold, why, and what it costs."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from knative.client.resources import WARM_POOL, Object
from knative.service_token import service_token
from pilotlight import terminal
from pilotlight.cli.options import Kubeconfig, Namespace
from pilotlight.kubeconfig import connect
from warmpool import explanation, operations
from warmpool.adapters.admin_key import read_admin_key
from warmpool.domain.duration import parse_duration
from warmpool.domain.pool import KIND

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Warm pools: what they hold, why, and what it costs."
)

Name = Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a WarmPool.")]


@app.command("token")
def token(
    service: Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a Service.")],
    *,
    admin_key_file: Annotated[
        Path,
        typer.Option(envvar="PILOTLIGHT_ADMIN_KEY_FILE", help="The controller's key."),
    ],
    namespace: Namespace = "default",
) -> None:
    """Print the ADMIN_TOKEN of a Service, with which the controller changes the warmth of its replicas."""
    before, slash, name = service.rpartition("/")
    try:
        key = read_admin_key(admin_key_file)
    except OSError as error:
        raise typer.BadParameter(
            f"{admin_key_file}: {error.strerror}", param_hint="--admin-key-file"
        ) from None
    typer.echo(service_token(key, before if slash else namespace, name))


@app.command("apply")
def apply(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.yaml", help="WarmPools, as `experiment recommend` prints; - is stdin."),
    ],
    *,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Create WarmPools, or give those that exist the spec of the file."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        pools = [found for found in yaml.safe_load_all(text) if found is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{file}: cannot be read: {error}", param_hint="FILE.yaml") from None
    if not pools:
        raise typer.BadParameter(f"{file}: has no WarmPool", param_hint="FILE.yaml")
    for pool in pools:
        kind = pool.get("kind") if isinstance(pool, dict) else None
        name = (pool.get("metadata") or {}).get("name") if isinstance(pool, dict) else None
        if kind != KIND or not name:
            raise typer.BadParameter(
                f"{file}: kind = {kind!r} and name = {name!r}, must be a {KIND} with a name",
                param_hint="FILE.yaml",
            )

    async def run() -> list[Object]:
        async with connect(kubeconfig) as cluster:
            return [await operations.apply(cluster, pool) for pool in pools]

    for pool in asyncio.run(run()):
        meta = pool["metadata"]
        typer.echo(f"warmpool {meta['namespace']}/{meta['name']} applied")


@app.command("ls")
def ls(
    *,
    kubeconfig: Kubeconfig = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the objects.")] = False,
) -> None:
    """List pools: what each holds, why, until when, and what comes next."""

    async def run() -> list[Object]:
        async with connect(kubeconfig) as cluster:
            return await operations.pools(cluster, namespace)

    pools = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(pools, indent=2))
        return
    if not pools:
        typer.echo("no warm pools")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("POOL", "TARGET", "FLOOR", "READY", "REASON", "UNTIL", "NEXT", "COST"):
        table.add_column(column, overflow="fold")
    for pool in pools:
        table.add_row(*_row(pool))
    terminal.console().print(table)


def _row(pool: Object) -> list[str]:
    meta, spec, status = pool["metadata"], pool.get("spec") or {}, pool.get("status") or {}
    cost = status.get("cost") or {}
    return [
        f"{meta['namespace']}/{meta['name']}",
        str(spec.get("target", "")),
        str(status.get("held", "?")),
        str(status.get("ready", "?")),
        str(status.get("reason", "not reconciled yet")),
        status.get("until", ""),
        str((status.get("nextChange") or {}).get("held", "")),
        f"{cost['toDate']} {cost['currency']}" if cost else "",
    ]


@app.command("show")
def show(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Print a pool's spec and status."""
    pool = _get(name, namespace, kubeconfig)
    shown = {"name": pool["metadata"]["name"], "namespace": pool["metadata"]["namespace"]}
    shown |= {"spec": pool.get("spec") or {}, "status": pool.get("status") or {}}
    typer.echo(yaml.safe_dump(shown, sort_keys=False, width=110), nl=False)


@app.command("explain")
def explain(
    name: Name,
    *,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
    days: Annotated[int, typer.Option(min=1, max=366, help="How far to look ahead.")] = 7,
) -> None:
    """Explain the current floor, rule by rule, and list the coming changes."""
    pool = _get(name, namespace, kubeconfig)
    for line in explanation.explanation(pool, datetime.now(UTC), days):
        typer.echo(line)


@app.command("hold")
def hold(
    name: Name,
    *,
    replicas: Annotated[int, typer.Option("--replicas", "-r", min=1, help="Keep at least this many hot.")],
    span: Annotated[str, typer.Option("--for", help="For how long: 30m, 2h, 1d.")],
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
) -> None:
    """Keep replicas hot for a while, whatever the windows say; limits and budget still apply."""
    namespace, name = _split(name, namespace)
    time = _span(span)

    async def run() -> datetime:
        async with connect(kubeconfig) as cluster:
            now = datetime.now(UTC)
            return await operations.hold(cluster, name, namespace, replicas=replicas, span=time, now=now)

    until = asyncio.run(run())
    typer.echo(f"{namespace}/{name} is held at {replicas} until {until:%Y-%m-%d %H:%M} UTC")


@app.command("release")
def release(
    name: Annotated[str | None, typer.Argument(help="NAME or NAMESPACE/NAME; ends its hold.")] = None,
    *,
    abandoned: Annotated[
        bool, typer.Option(help="Release floors that have expired or whose pool is gone.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
) -> None:
    """End a hold; or, with --abandoned, clean up after a controller that no longer runs."""
    if (name is None) == (not abandoned):
        raise typer.BadParameter("give the NAME of a pool, or --abandoned")
    asyncio.run(_release(name, namespace, kubeconfig))


async def _release(name: str | None, namespace: str, kubeconfig: Path | None) -> None:
    async with connect(kubeconfig) as cluster:
        if name is None:
            released = await operations.release_abandoned(cluster, None, datetime.now(UTC))
            typer.echo("\n".join(f"{revision} released" for revision in released) or "nothing to release")
            return
        namespace, name = _split(name, namespace)
        await operations.release(cluster, name, namespace)
        typer.echo(f"{namespace}/{name} has no hold any more")


@app.command("enable")
def enable(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Let a pool hold its floors again."""
    _switch(name, namespace, kubeconfig, on=True)


@app.command("disable")
def disable(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Give every Revision its own min-scale back, until the pool is enabled."""
    _switch(name, namespace, kubeconfig, on=False)


def _switch(name: str, namespace: str, kubeconfig: Path | None, *, on: bool) -> None:
    namespace, name = _split(name, namespace)

    async def run() -> None:
        async with connect(kubeconfig) as cluster:
            await operations.enable(cluster, name, namespace, on=on)

    asyncio.run(run())
    typer.echo(f"{namespace}/{name} is {'enabled' if on else 'disabled'}")


@app.command("cost")
def cost(
    name: Annotated[str | None, typer.Argument(help="NAME or NAMESPACE/NAME; default all.")] = None,
    *,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
) -> None:
    """Show what pools have cost in their period, by reason, and what is projected."""

    async def run() -> list[Object]:
        async with connect(kubeconfig) as cluster:
            if name is None:
                return await operations.pools(cluster, None)
            space, plain = _split(name, namespace)
            return [await cluster.get(WARM_POOL, plain, space)]

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("POOL", "PERIOD", "SPENT", "PROJECTED", "BUDGET", "IDLE GPU h", "BUSY GPU h", "BY REASON"):
        table.add_column(column, overflow="fold")
    for pool in asyncio.run(run()):
        table.add_row(*_cost_row(pool))
    terminal.console().print(table)


def _cost_row(pool: dict[str, Any]) -> list[str]:
    shown = (pool.get("status") or {}).get("cost") or {}
    reasons = ", ".join(f"{reason} {amount}" for reason, amount in (shown.get("byReason") or {}).items())
    return [
        f"{pool['metadata']['namespace']}/{pool['metadata']['name']}",
        f"{shown.get('period', '')} from {shown.get('periodStart', '?')[:10]}",
        f"{shown.get('toDate', '?')} {shown.get('currency', '')}",
        shown.get("projected", ""),
        shown.get("budget", "none"),
        f"{shown.get('idleGpuSeconds', 0) / 3600:.2f}",
        f"{shown.get('busyGpuSeconds', 0) / 3600:.2f}",
        reasons,
    ]


def _get(name: str, namespace: str, kubeconfig: Path | None) -> Object:
    namespace, name = _split(name, namespace)

    async def run() -> Object:
        async with connect(kubeconfig) as cluster:
            return await cluster.get(WARM_POOL, name, namespace)

    return asyncio.run(run())


def _split(name: str, namespace: str) -> tuple[str, str]:
    """`NAMESPACE/NAME` names its namespace itself."""
    space, slash, plain = name.partition("/")
    return (space, plain) if slash else (namespace, name)


def _span(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as problem:
        raise typer.BadParameter(f"{text!r} {problem}", param_hint="--for") from None
