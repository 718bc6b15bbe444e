"""`pilotlight init`: a folder with an agent that runs at once."""

from pathlib import Path
from typing import Annotated

import typer

from pilotlight.init import new_agent as making

app = typer.Typer(add_completion=False)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="Folder to make; its name is the agent's.")],
    *,
    template: Annotated[
        str, typer.Option("--template", "-t", help=f"One of {', '.join(making.templates())}.")
    ] = making.DEFAULT,
) -> None:
    """Make a folder with an agent, its stage, tools and tests, which run at once."""
    try:
        files = making.new_agent(folder, template)
    except making.InitError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"{folder}: {', '.join(files)}")
    typer.echo(f"next: cd {folder} && pytest; README.md has the rest")
