"""`pilotlight key ...`: keys of function URLs, and the token of an agent's stages."""

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from functions.auth.api_keys import KeyRecord
from functions.auth.caller import is_name
from pilotlight import keys, terminal
from pilotlight.access_settings import KEYS_SECRET
from pilotlight.cli.options import Kubeconfig
from pilotlight.kubeconfig import connect
from warmpool.domain.duration import parse_duration

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Keys of function URLs: create, ls, revoke; rotate."
)

_NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,62}")

Name = Annotated[str, typer.Argument(help="Name of the key; it stands in metrics.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The agents' namespace.")]
Secret = Annotated[str, typer.Option(help="The Secret, as spec.auth.secret names it.")]


@app.command("create")
def create(
    name: Name,
    *,
    agent: Annotated[
        list[str] | None, typer.Option(help="An agent that it may call; may be repeated. Default all.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="invoke or metrics; may be repeated. Default invoke.")
    ] = None,
    team: Annotated[str, typer.Option(help="Stands in metrics and in the cost account.")] = "",
    rate: Annotated[int | None, typer.Option(min=1, help="Requests a minute, at each replica.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Tokens a minute, at each replica.")
    ] = None,
    in_flight: Annotated[
        int | None, typer.Option(min=1, help="Requests at the same time, at each replica.")
    ] = None,
    quota: Annotated[int | None, typer.Option(min=1, help="Tokens a day (UTC), at each replica.")] = None,
    expires: Annotated[str | None, typer.Option(help="Valid for so long: 12h, 30d.")] = None,
    secret: Secret = KEYS_SECRET,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print name and key as JSON.")] = False,
) -> None:
    """Make a key and print it, this once; only a salted hash of it is kept."""
    _check_name(name)
    if team and not is_name(team):
        raise typer.BadParameter(f"{team!r} must be letters, digits and . _ @ : -", param_hint="--team")
    for given in scope or ():
        if given not in {"invoke", "metrics"}:
            raise typer.BadParameter(f"{given!r} must be invoke or metrics", param_hint="--scope")
    limits = {
        "requests_per_minute": rate,
        "tokens_per_minute": tokens_per_minute,
        "in_flight": in_flight,
        "tokens_per_day": quota,
    }
    fields: dict[str, Any] = {
        "agents": tuple(agent or ()),
        "team": team,
        "limits": limits,
        "expires": None if expires is None else _until(expires),
    }
    if scope:
        fields["scopes"] = tuple(scope)

    async def run() -> str:
        async with connect(kubeconfig) as cluster:
            return await keys.create(cluster, secret, namespace, name, **fields)

    key = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps({"name": name, "namespace": namespace, "key": key}))
        return
    typer.echo(key)
    typer.echo(f"key {namespace}/{name}: keep it now, it is not shown again", err=True)


@app.command("ls")
def ls(
    *,
    secret: Secret = KEYS_SECRET,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records, without hashes.")] = False,
) -> None:
    """List keys: for whom they are, what they may use, until when."""

    async def run() -> dict[str, KeyRecord | None]:
        async with connect(kubeconfig) as cluster:
            return dict(await keys.listed(cluster, secret, namespace))

    found = asyncio.run(run())
    if as_json:
        shown = {name: None if record is None else _shown(record) for name, record in found.items()}
        typer.echo(json.dumps(shown, indent=2))
        return
    if not found:
        typer.echo(f"no keys in namespace {namespace}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("KEY", "ID", "TEAM", "AGENTS", "SCOPES", "LIMITS", "CREATED", "EXPIRES"):
        table.add_column(column, overflow="fold")
    now = datetime.now(UTC)
    for name, record in found.items():
        table.add_row(name, *(("?", "the record cannot be read") if record is None else _row(record, now)))
    terminal.console().print(table)


@app.command("revoke")
def revoke(
    name: Name,
    *,
    secret: Secret = KEYS_SECRET,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Remove a key; stages refuse it within seconds, on a cluster within two minutes."""

    async def run() -> None:
        async with connect(kubeconfig) as cluster:
            await keys.revoke(cluster, secret, namespace, name)

    asyncio.run(run())
    typer.echo(f"key {namespace}/{name} is revoked")


@app.command("rotate")
def rotate(
    agent: Annotated[str, typer.Argument(help="Name of an agent.")],
    *,
    force: Annotated[bool, typer.Option(help="Although the last rotation was minutes ago.")] = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Replace the token by which an agent's stages know each other, or make it; nothing restarts."""

    async def run() -> None:
        async with connect(kubeconfig) as cluster:
            await keys.rotate_stage_token(cluster, agent, namespace, force=force)

    asyncio.run(run())
    typer.echo(f"the stages of {namespace}/{agent} have a new token; the one before stays valid beside it")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} must be letters, digits and . _ -, at most 63", param_hint="NAME")


def _until(span: str) -> datetime:
    try:
        return datetime.now(UTC).replace(microsecond=0) + parse_duration(span)
    except ValueError as problem:
        raise typer.BadParameter(f"{span!r} {problem}", param_hint="--expires") from None


def _shown(record: KeyRecord) -> dict[str, Any]:
    return record.model_dump(by_alias=True, mode="json", exclude={"salt", "hash"})


def _row(record: KeyRecord, now: datetime) -> tuple[str, ...]:
    limits = record.limits
    shown = (
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.in_flight, "in flight"),
        (limits.tokens_per_day, "tokens/day"),
    )
    expires = "never"
    if record.expires is not None:
        expires = f"{record.expires:%Y-%m-%d %H:%M}" + (" (expired)" if record.expires <= now else "")
    return (
        record.id,
        record.team or "-",
        ", ".join(record.agents) or "all",
        ", ".join(record.scopes),
        ", ".join(f"{limit} {unit}" for limit, unit in shown if limit is not None) or "none",
        f"{record.created:%Y-%m-%d}",
        expires,
    )
