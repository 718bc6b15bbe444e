"""`pilotlight doctor`: what would keep an agent from running, before it is deployed."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from pilotlight import paths
from pilotlight.cli import agents
from pilotlight.cli.platform import StateDir
from pilotlight.doctor import report, run
from pilotlight.up import is_running

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="Agent files to check for.", show_default=False)
    ] = None,
    *,
    model: agents.ModelUri = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            "--kubeconfig",
            envvar="KUBECONFIG",
            help="The cluster.",
            show_default="this machine, and the platform that runs on it",
        ),
    ] = None,
    state: StateDir = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Read the model as its pods would: on a cluster, by a short Job."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a cluster, or this machine, for what agents need.

    Each line is ok, warning, error or unknown, with the reason and the fix. Exit code 1 if there is an error.
    """
    named = file or []
    if probe and not named:
        raise typer.BadParameter("needs an agent file: --file", param_hint="--probe")
    checked = run.Agents(agents.load(named, model), named)
    directory = (state or paths.state_dir()).expanduser().absolute()
    lines = asyncio.run(_check(checked, kubeconfig, directory, probe=probe))
    if as_json:
        answer = {"ok": not report.has_errors(lines), "findings": [line.to_json() for line in lines]}
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        for line in lines:
            typer.echo(line.text)
        typer.echo(report.summary(lines), err=True)
    if report.has_errors(lines):
        raise typer.Exit(1)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


async def _check(
    checked: run.Agents, kubeconfig: Path | None, state_dir: Path, *, probe: bool
) -> Sequence[report.Line]:
    platform = kubeconfig is None and is_running(state_dir)
    lines: list[report.Line] = []
    if kubeconfig is None:
        lines += await run.check_machine(checked, state_dir, platform=platform)
    if kubeconfig is not None or platform:
        config = state_dir / "kubeconfig" if kubeconfig is None else kubeconfig
        try:
            cluster = Cluster.from_kubeconfig(config)
        except ClusterError as error:
            return [*lines, *run.unusable(config, str(error))]
        async with cluster:
            lines += await run.check_cluster(cluster, checked)
            if probe and not run.is_out_of_reach(lines):
                lines += await run.check_access(cluster, checked, _tell)
    elif probe:
        lines += await run.check_access(None, checked, _tell)
    return lines
