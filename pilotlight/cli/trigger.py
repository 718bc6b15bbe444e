"""`pilotlight trigger ...`: queues whose messages are posted to functions, and their dead letters."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from knative.client.cluster import Cluster
from knative.client.resources import TRIGGER, Object
from pilotlight import terminal
from pilotlight.cli.options import Kubeconfig, Namespace
from pilotlight.dispatching import embedded_sqs
from pilotlight.kubeconfig import connect, find_or_account
from triggers import operations
from triggers.decisions.dead_letters import DeadLetter
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef
from triggers.spec.trigger import TriggerSpec

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Event triggers: queues whose messages are posted to functions.",
)
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: messages that were given up, and why.")
app.add_typer(dlq, name="dlq")

Name = Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a Trigger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_BODY_SHOWN = 60


@dataclass(frozen=True)
class _Found:
    """A Trigger, and how its queues are reached from here."""

    key: str
    spec: TriggerSpec
    settings: BrokerSettings

    @property
    def dead_letter(self) -> QueueRef:
        """Its dead-letter queue.

        Raises:
            typer.BadParameter: it has none.
        """
        if self.spec.dead_letter is None:
            raise typer.BadParameter(f"trigger {self.key} has no deadLetter: nothing is kept there")
        return self.spec.dead_letter


@app.command("ls")
def ls(
    *,
    kubeconfig: Kubeconfig = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List triggers: queue, target, what waits, and what became of the messages."""

    async def run() -> list[Object]:
        async with connect(kubeconfig) as cluster:
            return await cluster.list(TRIGGER, namespace)

    triggers = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(triggers, indent=2))
        return
    if not triggers:
        typer.echo("no triggers")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "TRIGGER",
        "SOURCE",
        "TARGET",
        "READY",
        "BACKLOG",
        "OLDEST",
        "IN FLIGHT",
        "DELIVERED",
        "DEAD",
    ):
        table.add_column(column, overflow="fold")
    for trigger in triggers:
        table.add_row(*_row(trigger))
    terminal.console().print(table)


def _row(trigger: Object) -> list[str]:
    meta, status = trigger["metadata"], trigger.get("status") or {}
    ready = _condition(trigger)
    told = "?" if ready is None else "yes" if ready["status"] == "True" else "no"
    reason = "" if ready is None else ready["reason"]
    return [
        f"{meta['namespace']}/{meta['name']}",
        str(status.get("source", "")),
        str(status.get("target", "")),
        told if reason in {"", "Running"} else f"{told} ({reason})",
        str(status.get("backlog", "?")),
        str(status.get("oldestMessageAge", "")),
        str(status.get("inFlight", "")),
        str(status.get("delivered", "")),
        str(status.get("deadLettered", "")),
    ]


def _condition(trigger: Object) -> dict[str, Any] | None:
    conditions = (trigger.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == "Ready"), None)


@app.command("show")
def show(
    name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default", as_json: AsJson = False
) -> None:
    """Print a trigger's spec and status."""

    async def run() -> Object:
        async with connect(kubeconfig) as cluster:
            return await _get(cluster, name, namespace)

    trigger = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(trigger, indent=2))
        return
    shown = {"name": trigger["metadata"]["name"], "namespace": trigger["metadata"]["namespace"]}
    shown |= {"spec": trigger.get("spec") or {}, "status": trigger.get("status") or {}}
    typer.echo(yaml.safe_dump(shown, sort_keys=False, width=110), nl=False)


@app.command("pause")
def pause(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Take no more messages; those under way are finished, the others wait in the queue."""
    _set_paused(name, kubeconfig, namespace, paused=True)


@app.command("resume")
def resume(name: Name, *, kubeconfig: Kubeconfig = None, namespace: Namespace = "default") -> None:
    """Take messages again."""
    _set_paused(name, kubeconfig, namespace, paused=False)


def _set_paused(name: str, kubeconfig: Path | None, namespace: str, *, paused: bool) -> None:
    space, plain = _split(name, namespace)

    async def run() -> None:
        async with connect(kubeconfig) as cluster:
            await cluster.patch(TRIGGER, plain, space, {"spec": {"paused": paused}})

    asyncio.run(run())
    typer.echo(f"{space}/{plain} {'is paused' if paused else 'goes on'}")


@app.command("send")
def send(
    name: Name,
    data: Annotated[str | None, typer.Argument(help="The body; left out, it is read from --file.")] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The body; - is standard input.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", "-a", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    content_type: Annotated[str | None, typer.Option(help="Default: found out from the body.")] = None,
    group: Annotated[str | None, typer.Option(help="Messages of a group keep their order.")] = None,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Publish a message to a trigger's queue."""
    if (data is None) == (file is None):
        raise typer.BadParameter("give the body as an argument, or with --file")
    body = data.encode() if data is not None else _read(file)
    attributes = dict(_pair(text) for text in attribute or ())
    if content_type is not None:
        attributes["content-type"] = content_type

    async def run() -> tuple[str, _Found]:
        async with _found(name, namespace, kubeconfig) as found:
            sent = await operations.send(found.spec, found.settings, body, attributes, group)
            return sent, found

    sent, found = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps({"id": sent, "trigger": found.key, "bytes": len(body)}))
    else:
        typer.echo(f"sent {len(body)} bytes to the queue of {found.key}")


def _read(file: Path | None) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(str(file)).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--file") from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r} must be NAME=VALUE", param_hint="--attribute")
    return name, value


Limit = Annotated[int, typer.Option(min=1, max=10_000, help="Messages to look at.")]


@dlq.command("ls")
def dlq_ls(
    name: Name,
    *,
    limit: Limit = 100,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """List dead letters, the oldest first, with the reason of each."""
    letters = asyncio.run(_browse(name, namespace, kubeconfig, limit))
    if as_json:
        typer.echo(json.dumps([_as_json(letter) for letter in letters], indent=2))
        return
    if not letters:
        typer.echo("no dead letters")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "AGE", "ATTEMPTS", "REASON", "BODY"):
        table.add_column(column, overflow="fold")
    for letter in letters:
        table.add_row(*_letter_row(letter))
    terminal.console().print(table)


def _letter_row(letter: DeadLetter) -> list[str]:
    enqueued = letter.message.enqueued
    age = "" if enqueued is None else f"{max(0, round((datetime.now(UTC) - enqueued).total_seconds()))}s"
    body = letter.message.body[: 4 * _BODY_SHOWN].decode("utf-8", "replace")
    body = "".join(one if one.isprintable() else " " for one in body)
    attempts = "" if letter.attempts is None else str(letter.attempts)
    return [letter.message.id, age, attempts, letter.reason or "", body[:_BODY_SHOWN]]


@dlq.command("show")
def dlq_show(
    name: Name,
    message: Annotated[str, typer.Argument(help="ID of a dead letter, as `dlq ls` prints it.")],
    *,
    limit: Limit = 1000,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Print a dead letter: its reason, the response, the attempts, attributes and body."""
    letters = asyncio.run(_browse(name, namespace, kubeconfig, limit))
    found = next((letter for letter in letters if letter.message.id == message), None)
    if found is None:
        raise typer.BadParameter(f"there is no dead letter {message!r} among the first {len(letters)}")
    shown = _as_json(found)
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    else:
        typer.echo(yaml.safe_dump(shown, sort_keys=False, width=110, allow_unicode=True), nl=False)


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    message = letter.message
    try:
        body: dict[str, str] = {"body": message.body.decode()}
    except UnicodeDecodeError:
        body = {"bodyHex": message.body.hex()}
    return {
        "id": message.id,
        "reason": letter.reason,
        "response": letter.response,
        "attempts": letter.attempts,
        "trigger": letter.trigger,
        "deadLettered": None if message.enqueued is None else message.enqueued.isoformat(),
        "history": [dict(one) for one in letter.history],
        "attributes": {
            key: value for key, value in message.attributes.items() if not key.startswith("pilotlight-")
        },
        **body,
    }


@dlq.command("replay")
def dlq_replay(
    name: Name,
    messages: Annotated[list[str] | None, typer.Argument(help="IDs of dead letters.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that are there now.")] = False,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = "default",
    as_json: AsJson = False,
) -> None:
    """Publish dead letters to the trigger's queue again; each keeps the id of its event."""
    if bool(messages) == every:
        raise typer.BadParameter("give the IDs of dead letters, or --all")

    async def run() -> operations.Replayed:
        async with _found(name, namespace, kubeconfig) as found:
            ids = None if every else messages
            return await operations.replay(found.spec, found.dead_letter, found.settings, ids)

    done = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps({"replayed": done.replayed, "missing": done.missing}))
    else:
        typer.echo(f"replayed {len(done.replayed)}")
    if done.missing:
        typer.echo(f"error: there is no dead letter {', '.join(done.missing)}", err=True)
        raise typer.Exit(1)


async def _browse(name: str, namespace: str, kubeconfig: Path | None, limit: int) -> list[DeadLetter]:
    async with _found(name, namespace, kubeconfig) as found:
        return await operations.browse(found.dead_letter, found.settings, limit)


@asynccontextmanager
async def _found(name: str, namespace: str, kubeconfig: Path | None) -> AsyncIterator[_Found]:
    """A Trigger of the cluster.

    Raises:
        ClusterError: there is none.
        SpecError: it cannot be read.
    """
    async with connect(kubeconfig) as cluster:
        trigger = await _get(cluster, name, namespace)
    meta = trigger["metadata"]
    key = f"{meta['namespace']}/{meta['name']}"
    path = find_or_account(kubeconfig, None)
    embedded = None if path is None else embedded_sqs(path.parent)
    yield _Found(key, TriggerSpec.parse(trigger.get("spec")), operations.settings_for(key, embedded))


async def _get(cluster: Cluster, name: str, namespace: str) -> Object:
    space, plain = _split(name, namespace)
    return await cluster.get(TRIGGER, plain, space)


def _split(name: str, namespace: str) -> tuple[str, str]:
    before, slash, plain = name.rpartition("/")
    return (before if slash else namespace), plain
