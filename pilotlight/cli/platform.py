"""`pilotlight up | down | status | logs | top`: the Knative for this machine."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from pilotlight import paths
from pilotlight import status as showing
from pilotlight import top as live
from pilotlight import up as running
from pilotlight.cli import agents
from pilotlight.cli.options import Kubeconfig
from pilotlight.stack import StackConfig, inherited_env

app = typer.Typer(add_completion=False)

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state", envvar="PILOTLIGHT_STATE", help="State folder.", show_default="~/.local/state/pilotlight"
    ),
]


@app.command()
def up(
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="Agent files to deploy once it runs.")
    ] = None,
    *,
    model: agents.ModelUri = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Function URLs; 0 picks a free port.")] = 8080,
    api_port: Annotated[int, typer.Option(min=0, max=65535, help="Kubernetes API; 0 picks one.")] = 8081,
    gpus: Annotated[int, typer.Option(min=0, help="GPU slots, real or virtual.")] = 1,
    prometheus: Annotated[
        str | None,
        typer.Option(envvar="PILOTLIGHT_PROMETHEUS", help="URL of a Prometheus for signals of WarmPools."),
    ] = None,
    mtls: Annotated[
        bool,
        typer.Option(
            "--mtls", help="Mutual TLS between the gateway and stages, by certificates made for this machine."
        ),
    ] = False,
    state: StateDir = None,
) -> None:
    """Start a Knative on this machine, with the warm-pool controller; Ctrl-C stops it and all replicas."""
    loaded = agents.load(file or [], model)
    config = StackConfig(
        state_dir=(state or paths.state_dir()).expanduser().absolute(),
        gateway_port=port,
        api_port=api_port,
        gpus=gpus,
        env=inherited_env(),
        prometheus=prometheus,
        mtls=mtls,
    )
    uvloop.run(running.up(config, loaded))


@app.command()
def down(
    *,
    state: StateDir = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its replicas to end.")] = 30,
) -> None:
    """Stop the platform that runs on this machine."""
    directory = (state or paths.state_dir()).expanduser().absolute()
    pid = running.down(directory, timeout_s=timeout)
    typer.echo("nothing runs here" if pid is None else f"stopped (process {pid})")


@app.command()
def status(*, state: StateDir = None, kubeconfig: Kubeconfig = None) -> None:
    """Show Services, replicas and warm pools."""
    asyncio.run(showing.status(kubeconfig, state))


@app.command()
def logs(
    service: Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a Service.")],
    *,
    state: StateDir = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Lines of each replica to start with.")
    ] = 50,
) -> None:
    """Print what a Service's replicas wrote."""
    directory = (state or paths.state_dir()).expanduser().absolute()
    asyncio.run(running.logs(directory, service, follow=follow, lines=lines))


@app.command()
def top(
    *,
    state: StateDir = None,
    kubeconfig: Kubeconfig = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between readings.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
) -> None:
    """Watch Services live: replicas, warmth, floor, requests/s, TTFT, cost so far."""
    asyncio.run(live.top(kubeconfig, state, interval_s=interval, once=once))
