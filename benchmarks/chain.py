"""Cost of a chain of stages over the model's stage alone: time to first token, total time, processor time.

    python benchmarks/chain.py [--json] [--requests N] [--tokens N] [--prefill-ms N]

Three arms: the model's stage alone; a chain of four stages, each a process of its own on this machine; the
same chain with ingest and postprocess in orchestrate's process (keys that begin with `colocated_`). The
model's stage is scripted: after `--prefill-ms` it sends a word every `GAP` seconds through the same HTTP
application as every stage, so that the chain is measured and not a model. Requests go to the arms in turns,
so that all see the same load on the machine. Processor time is that of the chain's own processes, without
the model's; unlike the others it is nearly the same on a busy machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from functions.contract import Delta, Final, StageEvent, StageReply, StageRequest, Usage  # noqa: E402
from functions.http.app import create_app  # noqa: E402
from functions.http.server import serve  # noqa: E402
from functions.lifecycle import State  # noqa: E402
from functions.settings import read_settings  # noqa: E402
from functions.stage import RequestContext, StageRoutes, StageRuntime  # noqa: E402

GAP = 0.005
WORDS = "the ship that left the harbour at dawn carried letters for jo.doe@example.org and tea "
READY_SECONDS = 60.0
PREFILL_MS = 20
"""About what vLLM takes for a short prompt with the smallest model that the tests run on a processor."""
PREFILL_VARIABLE = "CHAIN_PREFILL_MS"


@dataclass(frozen=True)
class Answer:
    """One stream as its client saw it, in seconds."""

    ttft: float
    total: float
    characters: int


def scripted_model() -> None:
    """Serve the model's stage in this process."""
    prefill = int(os.environ[PREFILL_VARIABLE]) / 1000

    class Model:
        name, kind = "generate", "generate"

        async def start(self, replica: Any) -> None:
            replica.to(State.HOT)

        async def invoke(self, request: StageRequest, _context: RequestContext) -> AsyncIterator[StageEvent]:
            return self.say(request)

        async def say(self, request: StageRequest) -> AsyncIterator[StageEvent]:
            tokens = request.parameters.max_tokens or 64
            await asyncio.sleep(prefill)
            words = (WORDS * tokens).split(" ")[:tokens]
            for word in words:
                yield Delta(word + " ")
                await asyncio.sleep(GAP)
            usage = Usage(prompt_tokens=1, completion_tokens=tokens)
            yield Final(StageReply(id=request.id, stage="generate", output=" ".join(words), usage=usage))

        async def close(self) -> None:
            pass

        def routes(self, runtime: StageRuntime) -> StageRoutes:  # noqa: ARG002 - the protocol
            return StageRoutes()

    settings = read_settings()
    with socket.create_server((settings.host, settings.port), backlog=2048) as listening:
        sys.exit(serve(create_app(Model(), settings), listening))


_PROCESSES: dict[str, psutil.Process] = {}
"""Of the stages, by URL."""


def processor_seconds(urls: Iterable[str]) -> float:
    """That the processes behind these URLs have used so far."""
    times = [_PROCESSES[url].cpu_times() for url in urls]
    return sum(time.user + time.system for time in times)


@contextlib.contextmanager
def stage(*command: str, **variables: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *command],
        env={
            **os.environ,
            **variables,
            "PORT": str(port),
            "PILOTLIGHT_HOST": "127.0.0.1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        },
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    _PROCESSES[url] = psutil.Process(process.pid)
    try:
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/healthz/ready") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.05)
    raise SystemExit(f"{url} was not ready within {READY_SECONDS} s")


async def stream(session: aiohttp.ClientSession, url: str, tokens: int) -> Answer:
    body = {"input": "Where is the ship?", "stream": True, "parameters": {"max_tokens": tokens}}
    began = time.perf_counter()
    first: float | None = None
    characters = 0
    last = b""
    async with session.post(f"{url}/invoke", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: "):
                first = first or time.perf_counter()
                characters += len(line)
                last = line
    reply = json.loads(last.removeprefix(b"data: "))
    if "output" not in reply:
        raise SystemExit(f"a stream failed: {reply}")
    assert first is not None
    return Answer(first - began, time.perf_counter() - began, characters)


async def posts(session: aiohttp.ClientSession, url: str) -> float:
    async with session.get(f"{url}/metrics") as response:
        page = await response.text()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("pilotlight_requests_total{")
    )


async def measure(requests: int, tokens: int, streams: int, prefill_ms: int) -> dict[str, float]:
    with (
        stage(__file__, "--model", **{PREFILL_VARIABLE: str(prefill_ms)}) as model,
        stage("-m", "functions", "ingest") as ingest,
        stage("-m", "functions", "postprocess") as postprocess,
        stage(*_ORCHESTRATE, PILOTLIGHT_STAGES=_chain(model, ingest, postprocess)) as front,
        stage(*_ORCHESTRATE, PILOTLIGHT_STAGES=_chain(model, None, None)) as colocated,
    ):
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            for url in (model, ingest, postprocess, front, colocated):
                await ready(session, url)
            urls = (model, front, colocated)
            await asyncio.gather(*(stream(session, url, tokens) for url in urls for _ in range(4)))
            before = await posts(session, postprocess)
            apart, together = (front, ingest, postprocess), (colocated,)
            used = [processor_seconds(chain) for chain in (apart, together)]
            answers: dict[str, list[Answer]] = {url: [] for url in urls}
            for _ in range(requests):
                for url in urls:
                    batch = await asyncio.gather(*(stream(session, url, tokens) for _ in range(streams)))
                    answers[url].extend(batch)
            segments = await posts(session, postprocess) - before
            spent = [
                processor_seconds(chain) - before
                for chain, before in zip((apart, together), used, strict=True)
            ]
    alone, all_tokens = answers[model], requests * streams * tokens
    return {
        f"alone_ttft_p50_ms_{streams}": p50(alone, "ttft") * 1000,
        f"alone_total_p50_ms_{streams}": p50(alone, "total") * 1000,
        **_over("", answers[front], alone, streams),
        f"posts_per_token_{streams}": segments / all_tokens,
        f"processor_us_per_token_{streams}": spent[0] / all_tokens * 1e6,
        **_over("colocated_", answers[colocated], alone, streams),
        f"colocated_processor_us_per_token_{streams}": spent[1] / all_tokens * 1e6,
    }


_ORCHESTRATE = ("-m", "functions", "orchestrate")


def _chain(model: str, ingest: str | None, postprocess: str | None) -> str:
    """The stages of a chain; those without a URL are in orchestrate's process."""
    return json.dumps(
        [
            {"name": kind, "kind": kind, **({"colocated": {}} if url is None else {"url": url})}
            for kind, url in (("ingest", ingest), ("generate", model), ("postprocess", postprocess))
        ]
    )


def _over(arm: str, through: list[Answer], alone: list[Answer], streams: int) -> dict[str, float]:
    """A chain over the model's stage alone."""
    return {
        f"{arm}added_ttft_p50_ms_{streams}": (p50(through, "ttft") - p50(alone, "ttft")) * 1000,
        f"{arm}added_ttft_p99_ms_{streams}": (p99(through, "ttft") - p99(alone, "ttft")) * 1000,
        f"{arm}added_total_p50_ms_{streams}": (p50(through, "total") - p50(alone, "total")) * 1000,
        f"{arm}chain_ttft_ratio_{streams}": p50(through, "ttft") / p50(alone, "ttft"),
        f"{arm}chain_total_ratio_{streams}": p50(through, "total") / p50(alone, "total"),
    }


def p50(answers: list[Answer], field: str) -> float:
    return statistics.median(getattr(answer, field) for answer in answers)


def p99(answers: list[Answer], field: str) -> float:
    return sorted(getattr(answer, field) for answer in answers)[int(0.99 * len(answers))]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=at_least(1), default=20, help="rounds for each number of streams")
    parser.add_argument("--tokens", type=at_least(1), default=64)
    parser.add_argument(
        "--prefill-ms",
        type=at_least(0),
        default=PREFILL_MS,
        help="of the scripted model",
    )
    parser.add_argument("--model", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        scripted_model()
    result: dict[str, Any] = {
        "gap_ms": GAP * 1000,
        "prefill_ms": options.prefill_ms,
        "tokens": options.tokens,
        "peer": "the model's stage alone",
    }
    for streams, rounds in ((1, options.requests), (32, max(3, options.requests // 4))):
        result |= asyncio.run(measure(rounds, options.tokens, streams, options.prefill_ms))
    if options.json:
        print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in result.items()}))
    else:
        for key, value in result.items():
            print(f"{key:34} {value:.3f}" if isinstance(value, float) else f"{key:34} {value}")


if __name__ == "__main__":
    main()
