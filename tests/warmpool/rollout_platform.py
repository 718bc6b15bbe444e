"""A function on the real local platform, load on it, and a controller that rolls out its Revisions."""

import asyncio
import contextlib
from datetime import timedelta

import aiohttp
import pytest

from knative.client.cluster import Cluster
from knative.client.resources import SERVICE, WARM_POOL
from tests.warmpool.conftest import make_controller
from warmpool.adapters.answer_source import Answers
from warmpool.adapters.answers import ReplicaAnswers
from warmpool.adapters.exposition import MetricsPage
from warmpool.controller import Settings

FUNCTION = """
import http.server, os, threading, time
errors, delay = float(os.environ.get("ERRORS", "0")), float(os.environ.get("DELAY", "0"))
bounds, counts, codes, lock = (0.05, 0.1, 0.25, 0.5, 1.0, float("inf")), [0] * 6, {200: 0, 500: 0}, threading.Lock()
asked = [0]
if os.environ.get("NEVER"):
    raise SystemExit("this Revision never becomes ready")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        status = 200
        if self.path == "/metrics":
            with lock:
                lines = [f'pilotlight_requests_total{{code="{code}"}} {count}' for code, count in codes.items()]
                lines += [f'pilotlight_time_to_first_token_seconds_bucket{{le="{str(b).replace("inf", "+Inf")}"}} {n}' for b, n in zip(bounds, counts)]
            body = "\\n".join(lines).encode() + b"\\n"
        else:
            began = time.monotonic()
            time.sleep(delay)
            with lock:
                asked[0] += 1
                status = 500 if errors and asked[0] % round(1 / errors) == 0 else 200
            took, body = time.monotonic() - began, os.environ["K_REVISION"].encode()
            with lock:
                codes[status] += 1
                for at, bound in enumerate(bounds):
                    counts[at] += took <= bound
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
NAME = "generate"
ALWAYS = {"name": "always", "from": "00:00", "to": "24:00", "replicas": 2}
ROLLOUT = {
    "steps": [10, 50, 100],
    "pause": "1s",
    "interval": "1s",
    "minAnswers": 30,
    "margins": {"errors": "15%", "ttft": "30%"},
}


def template(env, *, gpus=1, annotations=None):
    """A Revision of the function with some environment variables."""
    container = {
        "image": "registry.local/x",
        "command": ["python", "-c", FUNCTION],
        "env": [{"name": key, "value": value} for key, value in env.items()],
    }
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    notes = {"autoscaling.knative.dev/window": "6s", **(annotations or {})}
    return {"metadata": {"annotations": notes}, "spec": {"containers": [container]}}


async def until(check, seconds=60):
    """Poll until `check` returns something true; a failure shows what it returned last."""
    last = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                last = await check()
                if last:
                    return last
                await asyncio.sleep(0.05)
    pytest.fail(f"not true within {seconds} s; last: {last!r}")


class Scenario:
    """One Service with a pool, and what was answered by which Revision."""

    def __init__(self, platform, cluster: Cluster) -> None:
        self.platform = platform
        self.cluster = cluster
        self.answers: list[tuple[str, int]] = []
        """Revision and status of each answer."""

    async def deploy(self, env, **options) -> None:
        """Create the Service, or give it a new template, as `kubectl apply` of a file without traffic does."""
        meta = {"name": NAME, "namespace": "default"}
        body = {"metadata": meta, "spec": {"template": template(env, **options)}}
        await self.cluster.apply(SERVICE, body, field_manager="git", force=True)

    async def pool(self, **spec) -> None:
        """Create the WarmPool."""
        body = {"target": NAME, "windows": [ALWAYS], "rollout": ROLLOUT, **spec}
        meta = {"name": "pool", "namespace": "default"}
        await self.cluster.create(WARM_POOL, {"metadata": meta, "spec": body})

    async def service(self):
        return await self.cluster.get(SERVICE, NAME, "default")

    async def status(self):
        """The status of the rollout."""
        pool = await self.cluster.get(WARM_POOL, "pool", "default")
        return (pool.get("status") or {}).get("rollout") or {}

    async def traffic(self):
        """Percent by Revision, as the Service asks for it."""
        entries = (await self.service())["spec"].get("traffic") or ()
        return {entry.get("revisionName"): entry["percent"] for entry in entries if entry.get("percent")}

    async def phase(self, phase, **fields):
        """Wait for a phase of the rollout, and fields of its status."""

        async def reached():
            found = await self.status()
            good = found.get("phase") == phase and all(
                found.get(key) == value for key, value in fields.items()
            )
            return found if good else None

        try:
            return await until(reached)
        except pytest.fail.Exception:
            pytest.fail(f"{phase} {fields} was not reached; it is {await self.status()}")

    @contextlib.asynccontextmanager
    async def load(self, rate=60):
        """Requests to the Service at an even rate, until the context ends and all are answered."""
        url = f"{self.platform.gateway_url}/default/{NAME}/"
        stop = asyncio.Event()
        tasks = set()

        async def one(session):
            async with session.get(url) as answer:
                body = (await answer.read()).decode(errors="replace")
                self.answers.append((body if answer.status in {200, 500} else "?", answer.status))

        async def send(session):
            while not stop.is_set():
                task = asyncio.create_task(one(session))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(1 / rate)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            sending = asyncio.create_task(send(session))
            try:
                yield
            finally:
                stop.set()
                await sending
                await asyncio.gather(*list(tasks), return_exceptions=True)


@contextlib.asynccontextmanager
async def controlling(platform, cluster, **options):
    """A controller, as `pilotlight up` runs it."""
    running = make_controller(
        cluster,
        demand=MetricsPage(f"{platform.api_url}/metrics"),
        answers=Answers(ReplicaAnswers(cluster)),
        settings=Settings(interval=timedelta(seconds=1), gather=timedelta(milliseconds=20)),
        **options,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(running.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)
