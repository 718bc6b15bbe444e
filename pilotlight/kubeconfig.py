"""Which Knative a command talks to: the kubeconfig that was named, else the platform on this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from knative.client.cluster import Cluster
from pilotlight import paths
from pilotlight.stack import StackError


def find(named: Path | None, state: Path | None = None) -> Path:
    """The kubeconfig to use.

    Raises:
        StackError: when none was named and no platform has left one.
    """
    if named is not None:
        if not named.is_file():
            raise StackError(f"kubeconfig {named} is no file")
        return named
    local = (state or paths.state_dir()) / "kubeconfig"
    if not local.is_file():
        raise StackError(
            "no platform runs on this machine and no kubeconfig was named; "
            "start one with `pilotlight up`, or give --kubeconfig FILE"
        )
    return local


@asynccontextmanager
async def connect(named: Path | None, state: Path | None = None) -> AsyncIterator[Cluster]:
    """A client for the kubeconfig that `find` gives, closed afterwards."""
    cluster = Cluster.from_kubeconfig(find(named, state))
    try:
        yield cluster
    finally:
        await cluster.close()
