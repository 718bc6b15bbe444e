"""`pilotlight dashboard`: the page alone, read-only, for a cluster."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from pilotlight.dashboard.server import serve
from pilotlight.dashboard.tokens import SHORTEST, read_token
from pilotlight.kubeconfig import connect

app = typer.Typer(add_completion=False)


@app.command()
def dashboard(
    *,
    token_file: Annotated[
        Path, typer.Option(envvar="PILOTLIGHT_DASHBOARD_TOKEN_FILE", help="The token that opens the page.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9465,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: all.")] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A further name under which it answers, such as an ingress's.")
    ] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Default: as for the other commands."),
    ] = None,
) -> None:
    """Serve the dashboard of a cluster, read-only; `pilotlight up` serves its own."""
    if read_token(token_file) is None:
        raise typer.BadParameter(
            f"{token_file}: must be a file with a token of {SHORTEST} characters or more",
            param_hint="--token-file",
        )

    async def run() -> None:
        async with connect(kubeconfig) as cluster:
            typer.echo(f"dashboard  http://{host}:{port}/ui/")
            await serve(
                cluster, token_file, host=host, port=port, namespace=namespace, hosts=allowed_host or ()
            )

    asyncio.run(run())
