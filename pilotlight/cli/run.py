"""`pilotlight run ...`: durable runs of an agent."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pilotlight import invoke as invoking
from pilotlight import terminal
from pilotlight.gateway import default_gateway
from pilotlight.runs import RunsClient, waits_for

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Durable runs: ls, show, events, cancel, resume, approve.",
)

Service = Annotated[
    str, typer.Argument(help="NAME or NAMESPACE/NAME of the orchestrate stage's Service, or its URL.")
]
RunId = Annotated[str, typer.Argument(metavar="ID", help="Of the run.")]
Url = Annotated[str | None, typer.Option(help="The gateway.", show_default="the running platform's")]
Key = Annotated[str | None, typer.Option(envvar="PILOTLIGHT_KEY", help="A key, where the Service needs one.")]
State = Annotated[
    Path | None, typer.Option("--state", envvar="PILOTLIGHT_STATE", help="State folder of the platform.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class _Place:
    """Where runs are, and as whom they are asked for."""

    service: str
    url: str | None
    key: str | None
    state: Path | None

    @property
    def address(self) -> str:
        """The stage's URL."""
        if "://" in self.service:
            return self.service
        namespace, _, name = self.service.rpartition("/")
        gateway = (self.url or default_gateway(self.state)).rstrip("/")
        return f"{gateway}/{namespace or 'default'}/{name}"


def _ask(place: _Place, work: Callable[[RunsClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        headers = {} if place.key is None else {"Authorization": f"Bearer {place.key}"}
        async with invoking.client() as session:
            return await work(RunsClient(session, place.address, headers))

    return asyncio.run(run())


@app.command("ls")
def ls(
    service: Service,
    *,
    state_of: Annotated[
        list[str] | None, typer.Option("--in", help="Only runs in this state; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    url: Url = None,
    key: Key = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """List the caller's runs, the newest first."""
    query = "&".join([f"limit={limit}", *(f"state={one}" for one in state_of or ())])
    found = _ask(_Place(service, url, key, state), lambda runs: runs.ask("GET", f"runs?{query}"))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("ID", "STATE", "CREATED", "STEPS", "ATTEMPT", "WAITS FOR", box=None, pad_edge=False)
    for run in found["runs"]:
        table.add_row(
            run["id"], run["state"], run["created"], str(run["steps"]), str(run["attempt"]), waits_for(run)
        )
    terminal.console().print(table)


@app.command("show")
def show(
    service: Service,
    run_id: RunId,
    *,
    content: Annotated[bool, typer.Option(help="With the request and the results of steps.")] = False,
    url: Url = None,
    key: Key = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show a run: its state, steps, times, tokens, and its reply or error."""
    path = f"runs/{run_id}" + ("?content=true" if content else "")
    run = _ask(_Place(service, url, key, state), lambda runs: runs.ask("GET", path))
    _print(run, as_json=as_json or content)


@app.command("events")
def events(
    service: Service,
    run_id: RunId,
    *,
    after: Annotated[int, typer.Option(min=0, help="Only events behind this one.")] = 0,
    url: Url = None,
    key: Key = None,
    state: State = None,
) -> None:
    """Print a run's events as they happen, a line each, until it ends or waits."""

    async def follow(runs: RunsClient) -> None:
        async for name, data in runs.events(run_id, after):
            typer.echo(f"{name} {json.dumps(data)}")

    _ask(_Place(service, url, key, state), follow)


@app.command("cancel")
def cancel(
    service: Service,
    run_id: RunId,
    *,
    url: Url = None,
    key: Key = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """End a run; what it has under way is cut off."""
    _post(_Place(service, url, key, state), f"runs/{run_id}/cancel", {}, as_json=as_json)


@app.command("resume")
def resume(
    service: Service,
    run_id: RunId,
    *,
    url: Url = None,
    key: Key = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Let a run that failed or was cancelled go on from its last finished step."""
    _post(_Place(service, url, key, state), f"runs/{run_id}/resume", {}, as_json=as_json)


@app.command("approve")
def approve(
    service: Service,
    run_id: RunId,
    *,
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse the step: the run fails.")] = False,
    comment: Annotated[str | None, typer.Option(help="Why; stands in the run.")] = None,
    step: Annotated[str | None, typer.Option(help="The step that is meant.")] = None,
    url: Url = None,
    key: Key = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Approve the step that a run waits with, or refuse it."""
    body = {"approved": not refuse, "comment": comment, "step": step}
    _post(_Place(service, url, key, state), f"runs/{run_id}/approve", body, as_json=as_json)


def _post(place: _Place, path: str, body: dict[str, Any], *, as_json: bool) -> None:
    _print(_ask(place, lambda runs: runs.ask("POST", path, body)), as_json=as_json)


def _print(run: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(run, indent=2))
        return
    typer.echo(f"{run['id']}  {run['state']}  created {run['created']}  attempt {run['attempt']}")
    if waits := waits_for(run):
        typer.echo(f"waits for {waits}" if run.get("waiting_for") else f"works on {waits}")
    table = Table("STEP", "STATE", "SECONDS", "ATTEMPTS", "TOKENS", box=None, pad_edge=False)
    for step in run["steps"]:
        table.add_row(
            step["name"],
            step["state"],
            f"{step['seconds']:.3f}",
            str(step["attempts"]),
            str(sum(step.get("usage", {}).values()) or ""),
        )
    terminal.console().print(table)
    if (error := run.get("error")) is not None:
        typer.echo(f"error: {error['status']} {error['title']}: {error.get('detail', '')}")
    if (reply := run.get("reply")) is not None:
        output = reply["output"]
        typer.echo(output if isinstance(output, str) else json.dumps(output))
