"""`python -m triggers`: the dispatcher of one Trigger, or of all Triggers of a namespace, as a process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Protocol

import typer
import yaml
from prometheus_client import CollectorRegistry

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from transport.spans import Spans, open_queue
from triggers import health_server
from triggers.controller import TriggerController
from triggers.dispatcher import Options
from triggers.metrics import TriggerMetrics
from triggers.runner import TriggerRunner
from triggers.spec.field_types import SpecError
from triggers.spec.trigger import KIND, TriggerSpec

log = logging.getLogger("triggers")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class _Running(Protocol):
    @property
    def ready(self) -> bool: ...

    async def run(self, stop: asyncio.Event) -> None: ...


@app.command()
def main(
    *,
    trigger: Annotated[
        str | None,
        typer.Option(help="A file with a Trigger, or the NAME of one in the cluster. Default: all of them."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", envvar="POD_NAMESPACE", help="Default: all.")
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Default: the pod's account, $KUBECONFIG or ~/.kube/config.")
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(help="A URL that routes by Host. Default: the Services' names in the cluster."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address of health and metrics.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(help="Port of health and metrics; 0 picks a free one.")] = 9095,
    poll_seconds: Annotated[
        float, typer.Option(min=1, max=20, help="How long one request for messages waits at the broker.")
    ] = 10.0,
    lease_seconds: Annotated[
        float, typer.Option(min=2, max=43_200, help="For how long messages are borrowed at a time.")
    ] = 30.0,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="How long requests under way are waited for after SIGTERM.")
    ] = 30.0,
    wake_ahead: Annotated[bool, typer.Option(help="Wake the stages behind the target.")] = True,
) -> None:
    """Post the messages of queues to functions until SIGTERM, which finishes or returns what is under way."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    spans = open_queue(os.environ)
    options = Options(
        spans=None if spans is None else Spans(spans, os.environ.get("OTEL_SERVICE_NAME") or "dispatcher"),
        gateway=gateway,
        poll_s=poll_seconds,
        drain_s=drain_seconds,
        lease_s=lease_seconds,
        embedded_sqs=os.environ.get("PILOTLIGHT_EMBEDDED_SQS"),
        wake_ahead=wake_ahead,
    )
    try:
        what = read_file(Path(trigger)) if trigger is not None and Path(trigger).is_file() else trigger
        asyncio.run(_run(what, namespace, kubeconfig, options, (host, port)))
    except (ClusterError, SpecError, OSError) as error:
        problems = error.problems if isinstance(error, SpecError) else [str(error)]
        for problem in problems:
            typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(1) from None
    finally:
        if spans is not None:
            spans.close()


async def _run(
    what: tuple[tuple[str, str], TriggerSpec] | str | None,
    namespace: str | None,
    kubeconfig: Path | None,
    options: Options,
    address: tuple[str, int],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    metrics = TriggerMetrics(CollectorRegistry())

    async def chosen(_namespace: str, _spec: TriggerSpec) -> Options:
        return options

    async with AsyncExitStack() as stack:
        running: _Running
        if isinstance(what, tuple):
            running = TriggerRunner(*what[0], what[1], chosen, metrics)
        else:
            cluster = await stack.enter_async_context(Cluster.from_kubeconfig(kubeconfig))
            running = TriggerController(cluster, chosen, metrics, namespace=namespace, only=what)
        port = await stack.enter_async_context(
            health_server.serving(*address, metrics.registry, lambda: running.ready)
        )
        log.info("health and metrics at port %d", port)
        await running.run(stop)


def read_file(path: Path) -> tuple[tuple[str, str], TriggerSpec]:
    """Namespace, name and spec of the Trigger in a YAML file.

    Raises:
        SpecError: there is none, or it is wrong.
    """
    try:
        documents = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from None
    found = [one for one in documents if isinstance(one, dict) and one.get("kind") == KIND]
    if len(found) != 1:
        raise SpecError([f"{path}: must hold exactly one object of kind {KIND}, not {len(found)}"])
    meta = found[0].get("metadata")
    name = meta.get("name") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(name, str):
        raise SpecError([f"{path}: metadata.name must be given"])
    return (str(meta.get("namespace") or "default"), name), TriggerSpec.parse(found[0].get("spec"))


if __name__ == "__main__":
    app()
