"""Options that several command groups have."""

from pathlib import Path
from typing import Annotated

import typer

Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", envvar="KUBECONFIG", help="Default: the platform that `pilotlight up` runs."
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace, if NAME has none.")]
