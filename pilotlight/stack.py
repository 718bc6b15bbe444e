"""The platform and the warm-pool controller together, as `pilotlight up` runs them.

The controller talks to the platform as it would to a cluster: over HTTP, through the kubeconfig that the
platform wrote. Only this module knows that they share a process.
"""

import asyncio
import contextlib
import math
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from functions.settings import KINDS
from knative import env_vars
from knative.client.cluster import Cluster
from knative.client.errors import Cause
from knative.client.resources import TRIGGER, WARM_POOL, Object
from knative.labels import STAGE_LABEL
from knative.local.apiserver.admission.validating_function import AdmissionResponse
from knative.local.kubelet.preimported import Preimported
from knative.local.platform.config import PlatformConfig, PlatformError
from knative.local.platform.platform import Platform
from pilotlight.dashboard.app import Dashboard
from pilotlight.dashboard.gather import Gatherer
from pilotlight.dashboard.tokens import kept_token
from pilotlight.dispatching import Dispatching, EmbeddedSqs, validate_trigger
from pilotlight.run_waking import waking
from transport.spans import open_queue
from warmpool.adapters.answer_source import Answers
from warmpool.adapters.answers import ReplicaAnswers
from warmpool.adapters.clock import SystemClock
from warmpool.adapters.exposition import MetricsPage
from warmpool.adapters.history import SqliteHistory
from warmpool.adapters.metrics import MetricsCollector
from warmpool.adapters.phases import HttpPhases
from warmpool.adapters.price_file import packaged_prices
from warmpool.adapters.prometheus_answers import PrometheusAnswers
from warmpool.adapters.prometheus_api import PrometheusServer
from warmpool.adapters.prometheus_signals import PrometheusSignals
from warmpool.adapters.quality import ROLLOUT_KEY_FILE, ReplicaQuality, read_key
from warmpool.adapters.replicas import HttpWarmthClient
from warmpool.adapters.waker import HttpWaker
from warmpool.controller import Controller
from warmpool.domain.admission import review_pool

DASHBOARD_TOKEN = "dashboard-token"  # noqa: S105  # the file's name
"""In the state folder: what opens the dashboard. It outlives a restart, and so does the page's link."""
# What a replica inherits besides PATH and HOME: where S3 is, who we are there, and engine settings.
_INHERITED = (
    "AWS_",
    env_vars.PREFIX,
    "VLLM_",
    "HF_",
    "CUDA_",
    "OMP_",
    "TOKENIZERS_",
    "LD_LIBRARY_PATH",
    "XDG_",
    "OTEL_",
)
_STAGES = Preimported(
    "functions",
    (
        *("functions.logs", "functions.http.app", "functions.http.server", "functions.replica"),
        *(f"functions.stages.{kind}" for kind in KINDS),
        "functions.sdk.host",
    ),
)


class StackError(RuntimeError):
    """The platform cannot start or cannot be reached; the text says what to do."""


@dataclass(frozen=True)
class StackConfig:
    """What `pilotlight up` can be told.

    Attributes:
        state_dir: store, kubeconfig, logs; two platforms cannot share one.
        gateway_port: where function URLs answer; 0 picks a free port.
        api_port: where the Kubernetes API answers; 0 picks a free port.
        gpus: how many GPU slots replicas may hold, real or virtual.
        env: environment of every replica, under the container's own.
        prometheus: URL of a Prometheus that the signals of WarmPools are read from.
        sqs: URL of an SQS server of this machine's own; None: one starts with the first Trigger that needs
            it.
        mtls: whether gateway and stages speak mutual TLS.
        preimport: whether replicas of stages are forked from a process that has imported them.
    """

    state_dir: Path
    host: str = "127.0.0.1"
    gateway_port: int = 8080
    api_port: int = 8081
    gpus: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    prometheus: str | None = None
    sqs: str | None = None
    mtls: bool = False
    preimport: bool = True


@dataclass(frozen=True)
class Stack:
    """A running platform with its controller."""

    platform: Platform
    cluster: Cluster
    dashboard_token: str

    @property
    def dashboard_url(self) -> str:
        """The page, with the token that opens it: browsers send nothing of what is behind the #."""
        return f"{self.platform.api_url}/ui/#token={self.dashboard_token}"

    @property
    def gateway_url(self) -> str:
        """Where function URLs answer."""
        return self.platform.gateway_url


class _Page:
    """What answers below `/ui`: the dashboard, once it runs."""

    def __init__(self) -> None:
        self.app: ASGIApp = PlainTextResponse("the platform is starting", 503)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def _listed(value: str | None) -> tuple[str, ...]:
    """The items of a list that is separated by commas."""
    return tuple(item.strip() for item in (value or "").split(",") if item.strip())


def inherited_env() -> dict[str, str]:
    """The part of this process's environment that replicas get."""
    return {key: value for key, value in os.environ.items() if key.startswith(_INHERITED)}


@asynccontextmanager
async def running(config: StackConfig) -> AsyncIterator[Stack]:
    """Run the platform and the controller for as long as the context lasts; nothing is left afterwards.

    Raises:
        StackError: a port is taken, the state folder is in use or cannot be written.
    """
    admin_key = secrets.token_urlsafe(32)
    spans = open_queue(config.env)
    dispatching = Dispatching(config.state_dir, spans)
    metrics: list[Callable[[], str]] = [dispatching.render]
    page = _Page()
    platform = Platform(
        PlatformConfig(
            state_dir=config.state_dir,
            host=config.host,
            gateway_port=config.gateway_port,
            api_port=config.api_port,
            gpus=config.gpus,
            env=config.env,
            admin_key=admin_key,
            allowed_hosts=_listed(config.env.get(env_vars.ALLOWED_HOSTS)),
            allowed_origins=_listed(config.env.get(env_vars.ALLOWED_ORIGINS)),
            progress_s=_progress_seconds(config.env),
            validating={WARM_POOL: _validate_pool, TRIGGER: validate_trigger},
            spans=spans,
            more_metrics=lambda: "".join(text() for text in metrics),
            pages=page,
            speaks_tls=_is_a_stage_of_ours if config.mtls else None,
            preimported=_STAGES if config.preimport else None,
        )
    )
    try:
        await platform.start()
    except PlatformError as error:
        raise StackError(str(error)) from error
    try:
        async with (
            Cluster.from_kubeconfig(platform.kubeconfig) as cluster,
            _controlling(platform, cluster, config, admin_key, metrics),
            EmbeddedSqs(config.state_dir, os.environ, config.sqs) as sqs,
            dispatching.running(cluster, platform.gateway_url, sqs),
            waking(config.state_dir, cluster, platform.gateway_url),
        ):
            token = kept_token(config.state_dir / DASHBOARD_TOKEN)
            gatherer = Gatherer(cluster, f"{platform.api_url}/metrics", tls=platform.replica_tls)
            page.app = Dashboard(
                gatherer, lambda: {token: "write"}, operator=cluster, hosts=platform.config.hosts
            )
            async with gatherer.running():
                yield Stack(platform, cluster, token)
    finally:
        await platform.stop()
        if spans is not None:
            await asyncio.to_thread(spans.close)


def _is_a_stage_of_ours(pod: Mapping[str, Any]) -> bool:
    """Whether a pod runs one of the project's own stages: containers of users speak plain HTTP."""
    commands = [container.get("command") or [] for container in pod["spec"]["containers"]]
    labels = pod["metadata"].get("labels") or {}
    return labels.get(STAGE_LABEL) in KINDS or ["python", "-m", "functions"] in commands


def _rollout_key() -> str | None:
    """The key of rollouts' quality checks.

    Raises:
        StackError: the file that the environment names cannot be read.
    """
    named = os.environ.get(ROLLOUT_KEY_FILE)
    try:
        return read_key(named)
    except (OSError, UnicodeDecodeError) as error:
        raise StackError(f"{ROLLOUT_KEY_FILE} = {named}: cannot be read: {error}") from error


def _progress_seconds(env: Mapping[str, str]) -> float:
    """What replicas are told, the gateway heeds too.

    Raises:
        StackError: it is no number of seconds.
    """
    text = env.get(env_vars.PROGRESS_SECONDS) or "2"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise StackError(f"{env_vars.PROGRESS_SECONDS} = {text!r}, must be a number of seconds, at least 0")
    return seconds


def _validate_pool(obj: Object, old: Object | None) -> AdmissionResponse:
    """What the controller's webhook says of a WarmPool on a cluster."""
    review = review_pool(obj, old, SystemClock().now())
    return AdmissionResponse([Cause(problem) for problem in review.problems], review.warnings)


@asynccontextmanager
async def _controlling(
    platform: Platform,
    cluster: Cluster,
    config: StackConfig,
    admin_key: str,
    metrics: list[Callable[[], str]],
) -> AsyncIterator[None]:
    """The warm-pool controller, with what this machine can tell it: demand, history, the replicas' warmth.

    Its metrics are added to `metrics`.
    """
    stop = asyncio.Event()
    with contextlib.closing(SqliteHistory(config.state_dir / "warmpool.db")) as history:
        controller = Controller(
            cluster,
            clock=SystemClock(),
            prices=packaged_prices(),
            demand=MetricsPage(f"{platform.api_url}/metrics"),
            signals=PrometheusSignals(PrometheusServer(config.prometheus)) if config.prometheus else None,
            history=history,
            waker=HttpWaker(platform.gateway_url),
            warmth_client=HttpWarmthClient(cluster, admin_key, tls=platform.replica_tls),
            phases=HttpPhases(cluster, tls=platform.replica_tls),
            answers=Answers(
                ReplicaAnswers(cluster, tls=platform.replica_tls),
                PrometheusAnswers(PrometheusServer(config.prometheus)) if config.prometheus else None,
            ),
            quality=ReplicaQuality(cluster, key=_rollout_key(), tls=platform.replica_tls),
        )
        collector = MetricsCollector(controller)
        metrics.append(lambda: collector.render().decode())
        task = asyncio.create_task(controller.run(stop), name="warm-pool controller")
        try:
            yield
        finally:
            stop.set()
            try:
                await asyncio.wait_for(task, timeout=5)
            except TimeoutError:
                task.cancel()
