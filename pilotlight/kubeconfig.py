"""Which Knative a command talks to: a named kubeconfig, the platform on this machine, or that of its pod."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from knative.client.cluster import Cluster
from pilotlight import paths
from pilotlight.stack import StackError

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


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


def find_or_account(named: Path | None, state: Path | None) -> Path | None:
    """As `find`; None in a pod where it finds nothing: the pod's service account."""
    try:
        return find(named, state)
    except StackError:
        if named is None and _SERVICE_ACCOUNT.is_file():
            return None
        raise


@asynccontextmanager
async def connect(named: Path | None, state: Path | None = None) -> AsyncIterator[Cluster]:
    """A client for what `find` gives, or in a pod for its service account; closed afterwards.

    Raises:
        StackError: as `find`.
        ClusterError: the kubeconfig or the account cannot be used.
    """
    cluster = Cluster.from_kubeconfig(find_or_account(named, state))
    try:
        yield cluster
    finally:
        await cluster.close()
