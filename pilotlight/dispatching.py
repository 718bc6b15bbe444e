"""The dispatchers of the platform on this machine, and an SQS server for queues that have no broker."""

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

from prometheus_client import CollectorRegistry, generate_latest

from knative.client.cluster import Cluster
from knative.client.errors import Cause, ClusterError
from knative.client.resources import SECRET, Object
from knative.local.apiserver.admission.validating_function import AdmissionResponse
from pilotlight import aws_server
from transport.spans import SpanQueue, Spans
from triggers.admission import review_trigger
from triggers.controller import TriggerController
from triggers.dispatcher import Options
from triggers.metrics import TriggerMetrics
from triggers.sources.credentials import SECRETS_VARIABLE
from triggers.spec.trigger import TriggerSpec

URL_FILE = "sqs.url"
"""In the state folder while the SQS server runs: its URL."""
_SECRETS_S = 5.0
_POLL_S = 1.0
"""Nobody waits longer for Ctrl-C."""
_DRAIN_S = 5.0


class EmbeddedSqs:
    """An SQS server of this machine, which starts with the first Trigger that needs it."""

    def __init__(self, state_dir: Path, environment: Mapping[str, str], url: str | None = None) -> None:
        """An endpoint in `environment` is used instead; `url` is that of a server that runs already."""
        self._log = state_dir / "sqs.log"
        self._file = state_dir / URL_FILE
        self._chosen = any(environment.get(name) for name in ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"))
        self._url = url
        self._stack = AsyncExitStack()
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Nothing is started yet."""
        self._file.unlink(missing_ok=True)  # of a platform that was killed
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End the server."""
        self._file.unlink(missing_ok=True)
        await self._stack.aclose()

    async def url_for(self, spec: TriggerSpec) -> str | None:
        """The server's URL; None where the Trigger needs none, or the environment names another.

        Raises:
            AwsServerError: it cannot be started.
        """
        queues = [queue.sqs for queue in (spec.source, spec.dead_letter, spec.reply) if queue is not None]
        if not any(queue is not None and queue.is_name_alone for queue in queues):
            return None
        if self._url is None and not self._chosen:
            async with self._starting:
                if self._url is None:
                    server = aws_server.serving(self._log, "the SQS server of `pilotlight up`")
                    self._url = await self._stack.enter_async_context(server)
        if self._url is not None:
            self._file.write_text(self._url)
        return self._url


def embedded_sqs(state_dir: Path) -> str | None:
    """The URL of the SQS server of the platform that runs on a state folder; None where there is none."""
    try:
        return (state_dir / URL_FILE).read_text().strip() or None
    except OSError:
        return None


def validate_trigger(obj: Object, old: Object | None) -> AdmissionResponse:
    """What a webhook says of a Trigger on a cluster."""
    problems, warnings = review_trigger(obj, old)
    return AdmissionResponse([Cause(problem) for problem in problems], warnings)


class MountedSecrets:
    """The Secrets that Triggers name, as folders, which a cluster would mount; they follow the objects."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._cluster = cluster
        self._known: set[tuple[str, str]] = set()

    async def environment(self, namespace: str, names: Sequence[str]) -> Mapping[str, str]:
        """This process's environment, with the folder of a namespace's Secrets."""
        self._known |= {(namespace, name) for name in names}
        await self._write([(namespace, name) for name in names])
        if os.environ.get(SECRETS_VARIABLE):
            return os.environ  # the user has chosen another
        return {**os.environ, SECRETS_VARIABLE: str(self._folder / namespace)}

    async def follow(self) -> None:
        """Look for changes, for ever."""
        while True:
            await asyncio.sleep(_SECRETS_S)
            await self._write(sorted(self._known))

    async def _write(self, keys: Sequence[tuple[str, str]]) -> None:
        for namespace, name in keys:
            with contextlib.suppress(ClusterError):  # made later, or gone: what is there stays
                secret = await self._cluster.get(SECRET, name, namespace)
                folder = self._folder / namespace / name
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                for key, value in (secret.get("data") or {}).items():
                    content = base64.b64decode(value)
                    file = folder / key
                    if not file.is_file() or file.read_bytes() != content:
                        file.touch(mode=0o600)
                        file.write_bytes(content)


class Dispatching:
    """The dispatchers of a platform. Their metrics are there before the first dispatcher is."""

    def __init__(self, state_dir: Path, spans: SpanQueue | None = None) -> None:
        self._state_dir = state_dir
        self._spans = None if spans is None else Spans(spans, "dispatcher")
        self._metrics = TriggerMetrics(CollectorRegistry())

    def render(self) -> str:
        """In Prometheus' text format."""
        return generate_latest(self._metrics.registry).decode()

    @asynccontextmanager
    async def running(self, cluster: Cluster, gateway: str, sqs: EmbeddedSqs) -> AsyncIterator[None]:
        """Run a dispatcher for every Trigger in the API for as long as the context lasts."""
        secrets = MountedSecrets(self._state_dir / "trigger-secrets", cluster)

        async def options(namespace: str, spec: TriggerSpec) -> Options:
            return Options(
                gateway=gateway,
                poll_s=_POLL_S,
                drain_s=_DRAIN_S,
                spans=self._spans,
                embedded_sqs=await sqs.url_for(spec),
                environment=await secrets.environment(namespace, spec.secrets),
            )

        stop = asyncio.Event()
        controller = TriggerController(cluster, options, self._metrics)
        task = asyncio.create_task(controller.run(stop), name="trigger controller")
        following = asyncio.create_task(secrets.follow(), name="secrets of triggers")
        try:
            yield
        finally:
            stop.set()
            following.cancel()
            await asyncio.gather(task, following, return_exceptions=True)
