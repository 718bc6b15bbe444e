"""`python -m warmpool.controller`: the controller alone, against whatever a kubeconfig names."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from warmpool.adapters import logs
from warmpool.adapters.admin_key import read_admin_key
from warmpool.adapters.answer_source import Answers
from warmpool.adapters.answers import ReplicaAnswers
from warmpool.adapters.clock import SystemClock
from warmpool.adapters.exposition import MetricsPage
from warmpool.adapters.health import HealthServer
from warmpool.adapters.history import SqliteHistory
from warmpool.adapters.phases import HttpPhases
from warmpool.adapters.price_file import read_prices
from warmpool.adapters.prometheus import Prometheus
from warmpool.adapters.prometheus_answers import PrometheusAnswers
from warmpool.adapters.prometheus_api import PrometheusServer
from warmpool.adapters.prometheus_signals import PrometheusSignals
from warmpool.adapters.quality import ROLLOUT_KEY_FILE, ReplicaQuality, read_key
from warmpool.adapters.replicas import HttpWarmthClient
from warmpool.adapters.waker import HttpWaker
from warmpool.adapters.webhook import WebhookServer
from warmpool.controller.runner import Controller
from warmpool.controller.settings import Settings
from warmpool.domain.spec_errors import SpecError
from warmpool.ports import DemandSource, History, InMemoryHistory

log = logging.getLogger("warmpool.controller")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class LogStyle(StrEnum):
    """Format of the log."""

    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's options."""

    kubeconfig: Path | None
    context: str | None
    namespace: str | None
    prices: Path | None
    history: Path | None
    prometheus: PrometheusServer | None
    metrics_page: str | None
    gateway: str | None
    admin_key: str | None
    rollout_key_file: Path | None
    host: str
    port: int
    webhook_certificate: Path | None
    webhook_port: int
    interval_s: float


@app.command()
def main(
    *,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Default: the pod's account, $KUBECONFIG or ~/.kube/config.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="A context of the kubeconfig.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this one; default all.")
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(envvar="PILOTLIGHT_PRICES", help="GPU prices; default: the packaged examples."),
    ] = None,
    history: Annotated[
        Path | None, typer.Option(envvar="PILOTLIGHT_HISTORY", help="SQLite file; default: forget at exit.")
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(
            envvar="PILOTLIGHT_PROMETHEUS", help="URL of a Prometheus that scrapes Knative: demand, signals."
        ),
    ] = None,
    prometheus_token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PILOTLIGHT_PROMETHEUS_TOKEN_FILE", help="Bearer token for it, read at every use."
        ),
    ] = None,
    prometheus_ca_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PILOTLIGHT_PROMETHEUS_CA_FILE",
            help="Certificates that its own is checked against; default: the system's.",
        ),
    ] = None,
    metrics_page: Annotated[
        str | None, typer.Option(help="URL of a /metrics page with demand, instead of the Prometheus.")
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(help="Where wake-up requests go (by Host); default: each Service's address.")
    ] = None,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PILOTLIGHT_ADMIN_KEY_FILE",
            help="Key of which each Service's ADMIN_TOKEN is derived (see `pilotlight pool token`).",
        ),
    ] = None,
    rollout_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar=ROLLOUT_KEY_FILE,
            help="Key with which the quality checks of rollouts call stages that ask for one.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address of health and metrics.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of health and metrics; 0 picks one.")
    ] = 9464,
    webhook_certificate: Annotated[
        Path | None,
        typer.Option(help="Folder with tls.crt and tls.key of the validating webhook; default: no webhook."),
    ] = None,
    webhook_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the webhook; 0 picks one.")
    ] = 9443,
    interval: Annotated[
        float, typer.Option(min=1, max=300, help="Seconds between two passes over every pool.")
    ] = 15,
    log_style: Annotated[LogStyle, typer.Option("--log", help="json or text.")] = LogStyle.TEXT,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Keep warm pools on a cluster until SIGTERM."""
    logs.set_up(log_style.value, logging.DEBUG if verbose else logging.INFO)
    options = Options(
        kubeconfig=kubeconfig,
        context=context,
        namespace=namespace,
        prices=prices,
        history=history,
        prometheus=PrometheusServer(prometheus, prometheus_token_file, prometheus_ca_file)
        if prometheus
        else None,
        metrics_page=metrics_page,
        gateway=gateway,
        admin_key=read_admin_key(admin_key_file) if admin_key_file else None,
        rollout_key_file=rollout_key_file,
        host=host,
        port=port,
        webhook_certificate=webhook_certificate,
        webhook_port=webhook_port,
        interval_s=interval,
    )
    try:
        asyncio.run(serve(options))
    except (ClusterError, SpecError, OSError) as problem:
        typer.echo(f"error: {problem}", err=True)
        sys.exit(1)


async def serve(options: Options) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ClusterError: there is no usable kubeconfig.
        SpecError: the price file is wrong.
        OSError: a file cannot be read, or the port is taken.
    """
    clock = SystemClock()
    prices = read_prices(options.prices)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # not every event loop has them
            loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            Cluster.from_kubeconfig(options.kubeconfig, options.context)
        )
        history: History = InMemoryHistory()
        if options.history is not None:
            kept = SqliteHistory(options.history)
            stack.callback(kept.close)
            history = kept
        controller = Controller(
            cluster,
            clock=clock,
            history=history,
            prices=prices,
            namespace=options.namespace,
            demand=_demand(options),
            signals=PrometheusSignals(options.prometheus) if options.prometheus else None,
            waker=HttpWaker(options.gateway),
            warmth_client=HttpWarmthClient(cluster, options.admin_key) if options.admin_key else None,
            phases=HttpPhases(cluster),
            answers=Answers(
                ReplicaAnswers(cluster),
                PrometheusAnswers(options.prometheus) if options.prometheus else None,
            ),
            quality=ReplicaQuality(cluster, key=read_key(options.rollout_key_file)),
            settings=Settings(interval=timedelta(seconds=options.interval_s)),
        )
        health = HealthServer(controller, clock, host=options.host, port=options.port)
        await stack.enter_async_context(health)
        if options.webhook_certificate is not None:
            webhook = WebhookServer(
                clock, options.webhook_certificate, host=options.host, port=options.webhook_port
            )
            await stack.enter_async_context(webhook)
        log.info("serving %s; health and metrics on %s:%d", cluster.server, options.host, health.port)
        await controller.run(stop)


def _demand(options: Options) -> DemandSource | None:
    if options.metrics_page:
        return MetricsPage(options.metrics_page)
    if options.prometheus:
        return Prometheus(options.prometheus)
    return None


if __name__ == "__main__":
    app()
