"""`pilotlight weights warm`: fill an agent's cache before its first replica starts."""

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from knative.client.cluster import Cluster
from pilotlight import paths, terminal
from pilotlight.agent import Agent
from pilotlight.cli import agents
from pilotlight.cli.options import Kubeconfig
from pilotlight.deploy import is_local_platform
from pilotlight.kubeconfig import connect
from pilotlight.warm_weights import on_a_cluster, on_this_machine
from pilotlight.warm_weights.cron_jobs import cron_jobs, pool_of, schedules
from pilotlight.warm_weights.fill_state import Fill, State
from pilotlight.warm_weights.jobs import WarmError, WarmTarget, warm_target
from warmpool.domain.duration import parse_duration
from weights.sizes import format_size

app = typer.Typer(add_completion=False)


def _duration(text: str | timedelta) -> timedelta:
    if isinstance(text, timedelta):
        return text
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def warm(
    file: Annotated[Path, typer.Option("--file", "-f", help="Agent file.", show_default=False)],
    *,
    model: agents.ModelUri = None,
    kubeconfig: Kubeconfig = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", envvar="PILOTLIGHT_STATE", help="State folder of the local platform."),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            help="Only on this node; may be repeated. Default: all that the stage's pods may run on."
        ),
    ] = None,
    anywhere: Annotated[
        bool,
        typer.Option(
            "--anywhere", help="Leave the stage's placement out, for a volume that every node can mount."
        ),
    ] = False,
    stage: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The stage whose model it is, where several load one."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the cache is filled.")] = True,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait.")] = 3600,
    before_windows: Annotated[
        timedelta | None,
        typer.Option(
            parser=_duration,
            metavar="DURATION",
            help="Make CronJobs that do so as long before each window of the warm pool opens, such as 30m.",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the Jobs and CronJobs instead; the cache stays.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fill an agent's weights cache before its first replica starts.

    On a cluster a Job does it, or one on each node where the claim is a hostPath. Ctrl-C leaves them
    at work, and the same command follows them again. On this machine Ctrl-C ends it; what has arrived stays.
    """
    (agent,) = agents.load([file], model)
    target = warm_target(agent, stage)
    if anywhere and node:
        raise typer.BadParameter("excludes --node", param_hint="--anywhere")
    display = _Display(terminal.stderr_console())
    if before_windows is not None:
        _schedule(agent, target, kubeconfig, before_windows, nodes=node or (), anywhere=anywhere)
        return
    fills = asyncio.run(
        _run(
            target,
            kubeconfig,
            (state or paths.state_dir()).expanduser().absolute(),
            display,
            nodes=node or (),
            anywhere=anywhere,
            timeout_s=timeout if wait else None,
            delete=delete,
        )
    )
    if as_json:
        answer = {"service": f"{target.namespace}/{target.name}", "model": target.uri, "fills": _plain(fills)}
        typer.echo(json.dumps(answer, indent=2))
    elif delete:
        typer.echo("\n".join(f"{fill.name} deleted" for fill in fills) or "no Jobs were there")
    else:
        for fill in fills:
            typer.echo(_sentence(fill))
    if wait and not delete:
        _fail_unless_done(fills)


def _schedule(
    agent: Agent,
    target: WarmTarget,
    kubeconfig: Path | None,
    before: timedelta,
    *,
    nodes: Sequence[str],
    anywhere: bool,
) -> None:
    pool = pool_of(agent, target)
    times = schedules(pool, before)

    async def run() -> dict[str, list[str]]:
        async with connect(kubeconfig) as cluster:
            if await is_local_platform(cluster):
                raise WarmError(
                    "the local platform runs no CronJobs: fill its cache without --before-windows"
                )
            jobs = await on_a_cluster.jobs_for(cluster, target, nodes=nodes, anywhere=anywhere)
            return await on_a_cluster.schedule(cluster, target, list(cron_jobs(jobs, pool, before)))

    done = asyncio.run(run())
    for window, schedule in times.items():
        typer.echo(f"before {window}: {schedule} ({pool.time_zone})")
    for what, names in done.items():
        for name in names:
            typer.echo(f"cronjob/{name} {what}")


async def _run(
    target: WarmTarget,
    kubeconfig: Path | None,
    state: Path,
    display: "_Display",
    *,
    nodes: Sequence[str],
    anywhere: bool,
    timeout_s: float | None,
    delete: bool,
) -> list[Fill]:
    if kubeconfig is None:
        return await _here(target, None, state, display, nodes=nodes, timeout_s=timeout_s, delete=delete)
    async with connect(kubeconfig) as cluster:
        if await is_local_platform(cluster):
            return await _here(
                target, cluster, state, display, nodes=nodes, timeout_s=timeout_s, delete=delete
            )
        if delete:
            return [Fill(name) for name in await on_a_cluster.remove(cluster, target)]
        jobs = await on_a_cluster.jobs_for(cluster, target, nodes=nodes, anywhere=anywhere)
        await on_a_cluster.start(cluster, jobs)
        if timeout_s is None:
            return [Fill(job["metadata"]["name"]) for job in jobs]
        try:
            return await on_a_cluster.follow(cluster, jobs, display.show, timeout_s=timeout_s)
        except asyncio.CancelledError:
            display.say("the Jobs go on; the same command follows them again, with --delete it removes them")
            raise


async def _here(
    target: WarmTarget,
    cluster: Cluster | None,
    state: Path,
    display: "_Display",
    *,
    nodes: Sequence[str],
    timeout_s: float | None,
    delete: bool,
) -> list[Fill]:
    if nodes:
        raise typer.BadParameter("this machine is the local platform's only node", param_hint="--node")
    if timeout_s is None:
        raise typer.BadParameter(
            "the local platform runs no Jobs, so there is none to leave", param_hint="--no-wait"
        )
    if delete:
        return []
    referenced: dict[str, str] = {}
    if target.container.get("envFrom"):
        if cluster is not None:
            referenced = await on_this_machine.referenced_env(cluster, target)
        else:
            async with connect(None, state) as local:
                referenced = await on_this_machine.referenced_env(local, target)
    folder = on_this_machine.folder_of(target, state)
    return [await on_this_machine.fill(target, folder, referenced, display.show, timeout_s=timeout_s)]


class _Display:
    """Says on standard error what has changed; bytes at each tenth of the model."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, tuple[Any, ...]] = {}

    def show(self, fill: Fill) -> None:
        tenth = None
        if fill.done_bytes is not None and fill.total_bytes:
            tenth = 10 * fill.done_bytes // fill.total_bytes
        key = (fill.state, fill.detail, tenth)
        if self._said.get(fill.name) != key and not fill.ended:
            self._said[fill.name] = key
            self.say(_sentence(fill))

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _sentence(fill: Fill) -> str:
    where = fill.name if fill.node is None else f"{fill.name} on {fill.node}"
    words = [f"{where}: {fill.state}"]
    if fill.state is State.DONE and fill.total_bytes is not None and fill.read_bytes is not None:
        words.append(f"{format_size(fill.total_bytes)} cached, {format_size(fill.read_bytes)} fetched")
        words.append(f"in {fill.seconds} s")
    elif fill.done_bytes is not None and fill.total_bytes is not None:
        words.append(f"{format_size(fill.done_bytes)} of {format_size(fill.total_bytes)}")
    if fill.detail:
        words.append(f"({fill.detail})")
    return " ".join(words)


def _plain(fills: Sequence[Fill]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(fill) for fill in fills]


def _fail_unless_done(fills: Sequence[Fill]) -> None:
    failed = [fill for fill in fills if fill.state is State.FAILED]
    if failed:
        raise WarmError("\n".join(f"{fill.name}: {fill.detail}" for fill in failed))
    if left := [fill.name for fill in fills if not fill.ended]:
        raise WarmError(f"not filled in time: {', '.join(left)}; the same command goes on from there")
