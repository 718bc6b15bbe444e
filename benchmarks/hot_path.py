"""The hot path of a replica compared with vLLM's own server: throughput, time to first token, batching.

    python benchmarks/hot_path.py [--json] [--rounds N] [--seconds S]

Both servers get the same client, model and options. They are measured in turns, and the server that is not
being measured is stopped (SIGSTOP): a worker process of vLLM on a CPU polls for work for a second after each
request (`SpinCondition`), which on a small machine takes a processor from the other server.

Three ratios are judged:

    throughput_vs_vllm   output tokens/s at 32 streams, replica over vLLM's server      at least 0.95
    batching_gain        tokens/s of the replica at 32 streams over one stream          at least 10
    ttft_p50_vs_vllm     median time to first token, function URL over vLLM's server    at most 1.15

Everything else is printed for information. `added_ttft_*` is the difference in milliseconds between the
function URL and vLLM's own server; `added_to_engine_*` that between the function URL and the replica's own
engine by its unix socket, which is what the replica's HTTP process adds.

Throughputs are medians over the rounds. Percentiles are taken over the requests of all rounds;
`*_by_round` lists those of each round. `stolen_share` is the share of processor time that the host of a
virtual machine took away during the measurement (`steal` in proc_stat(5)).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from benchmarks.vllm_servers import NAME, Server, plain_vllm, replica  # noqa: E402
from weights.make_model import make_model  # noqa: E402

STREAMS = 32
TOKENS = 128
RATE = 4.0
"""Requests per second while TTFT is measured."""
TURN_SECONDS = 5.0
"""Of each target, before the other server has its turn."""


@dataclass(frozen=True)
class Answer:
    """One stream as its client saw it, in seconds and tokens."""

    ttft: float
    seconds: float
    tokens: int


async def stream(session: aiohttp.ClientSession, base: str, tokens: int, number: int) -> Answer:
    body = {
        "model": NAME,
        "prompt": f"{number} tell me about the sea and the ships on it",
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.perf_counter()
    first: float | None = None
    rest = b""
    async with session.post(f"{base}/v1/completions", json=body) as response:
        response.raise_for_status()
        while data := await response.content.readany():
            if first is None:
                first = time.perf_counter()
            rest = (rest + data)[-2000:]
    events = [part for part in rest.split(b"\n\n") if part.startswith(b"data: {")]
    usage = json.loads(events[-1][6:])["usage"]
    assert first is not None
    return Answer(first - began, time.perf_counter() - began, usage["completion_tokens"])


def open_session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """A client for one measurement only: servers close connections that are idle for some seconds."""
    return aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=600), read_bufsize=1 << 18
    )


async def throughput(base: str, streams: int, requests: int) -> float:
    """Output tokens per second of `requests` streams, `streams` at a time."""
    async with open_session(aiohttp.TCPConnector(limit=0)) as session:
        return await _throughput(session, base, streams, requests)


async def _throughput(session: aiohttp.ClientSession, base: str, streams: int, requests: int) -> float:
    gate = asyncio.Semaphore(streams)

    async def one(number: int) -> int:
        async with gate:
            return (await stream(session, base, TOKENS, number)).tokens

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(number) for number in range(requests))))
    return tokens / (time.perf_counter() - began)


Target = Callable[[int], Awaitable[Answer]]
"""Sends the request of this number to one of the servers."""


async def paced(targets: Sequence[Target], seconds: float) -> list[list[Answer]]:
    """Answers of each target: `seconds * RATE` requests each, sent in turns, RATE of them per second."""
    for target in targets:  # connects, and lets a server that was stopped wake up
        await target(0)
    results: list[list[Answer]] = [[] for _ in targets]

    async def one(index: int, number: int) -> None:
        results[index].append(await targets[index](number))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(seconds * RATE) * len(targets)):
            await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            tasks.create_task(one(number % len(targets), number))
    return results


async def first_tokens(
    ours: Server, vllm: Server, seconds: float
) -> tuple[list[Answer], list[Answer], list[Answer]]:
    """Answers of the function URL, of vLLM's server and of the replica's engine socket, `seconds` of each."""
    through: list[Answer] = []
    plain: list[Answer] = []
    direct: list[Answer] = []
    left = seconds
    while left > 0:
        turn = min(TURN_SECONDS, left)
        left -= turn
        connector = aiohttp.UnixConnector(path=engine_socket(ours), limit=0)
        async with open_session(aiohttp.TCPConnector(limit=0)) as session, open_session(connector) as engine:
            with vllm.paused():
                targets = [partial(stream, session, ours.url, 16), partial(stream, engine, "http://vllm", 16)]
                by_url, by_socket = await paced(targets, turn)
            through += by_url
            direct += by_socket
            with ours.paused():
                [theirs] = await paced([partial(stream, session, vllm.url, 16)], turn)
            plain += theirs
    return through, plain, direct


def engine_socket(server: Server) -> str:
    """The unix socket on which the replica's engine listens."""
    for process in server.tree():
        for connection in process.net_connections("unix"):
            if str(connection.laddr).endswith("/api.sock") and connection.status != psutil.CONN_CLOSE:
                return str(connection.laddr)
    raise RuntimeError("the replica has no engine")


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


@dataclass(frozen=True)
class Round:
    """One round: throughputs in tokens per second, and the answers of each of the three targets."""

    ours: float
    vllm: float
    single: float
    through: list[Answer]
    plain: list[Answer]
    direct: list[Answer]

    def added(self, share: float) -> float:
        """Percentile of the time to first token, function URL minus vLLM's server, in milliseconds."""
        return ttft(self.through, share) - ttft(self.plain, share)


def ttft(answers: list[Answer], share: float) -> float:
    """A percentile of the time to the first token, in milliseconds."""
    return 1e3 * percentile([one.ttft for one in answers], share)


async def one_round(ours: Server, vllm: Server, seconds: float) -> Round:
    rates: list[float] = []
    for one, other in ((ours, vllm), (vllm, ours)) * 2:
        with other.paused():
            rates.append(await throughput(one.url, STREAMS, 2 * STREAMS))
    with vllm.paused():
        alone = await throughput(ours.url, 1, 3)
    through, plain, direct = await first_tokens(ours, vllm, seconds)
    return Round(statistics.mean(rates[::2]), statistics.mean(rates[1::2]), alone, through, plain, direct)


async def measure(
    ours: Server, vllm: Server, rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """The figures of the module's docstring, after a first round that only warms up."""
    await one_round(ours, vllm, min(5.0, seconds))
    before = processor_ticks()
    done: list[Round] = []
    for number in range(rounds):
        done.append(await one_round(ours, vllm, seconds))
        last = done[-1]
        say(
            f"round {number + 1}: throughput {last.ours / last.vllm:.2f}, "
            f"gain {last.ours / last.single:.1f}, "
            f"ttft p50 {ttft(last.through, 0.5) / ttft(last.plain, 0.5):.2f} of vLLM's, "
            f"added p99 {last.added(0.99):.1f} ms"
        )
    total, stolen = (now - then for now, then in zip(processor_ticks(), before, strict=True))
    through = [answer for one in done for answer in one.through]
    plain = [answer for one in done for answer in one.plain]
    direct = [answer for one in done for answer in one.direct]

    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(value(one) for one in done)

    def added(share: float, other: list[Answer]) -> float:
        return ttft(through, share) - ttft(other, share)

    return {
        "throughput_vs_vllm": median(lambda one: one.ours / one.vllm),
        "batching_gain": median(lambda one: one.ours / one.single),
        "ttft_p50_vs_vllm": ttft(through, 0.5) / ttft(plain, 0.5),
        "throughput_tokens_per_s": median(lambda one: one.ours),
        "vllm_throughput_tokens_per_s": median(lambda one: one.vllm),
        "single_stream_tokens_per_s": median(lambda one: one.single),
        "added_ttft_p50_ms": added(0.5, plain),
        "added_ttft_p99_ms": added(0.99, plain),
        "added_to_engine_p50_ms": added(0.5, direct),
        "added_to_engine_p99_ms": added(0.99, direct),
        "ttft_p50_ms": ttft(through, 0.5),
        "ttft_p99_ms": ttft(through, 0.99),
        "vllm_ttft_p50_ms": ttft(plain, 0.5),
        "vllm_ttft_p99_ms": ttft(plain, 0.99),
        "added_ttft_p50_ms_by_round": [one.added(0.5) for one in done],
        "added_ttft_p99_ms_by_round": [one.added(0.99) for one in done],
        "requests_each": len(through),
        "stolen_share": stolen / total,
        "rounds": rounds,
        "streams": STREAMS,
        "tokens_per_stream": TOKENS,
    }


def processor_ticks() -> tuple[int, int]:
    """Ticks of all processors since boot, and those that the host took (`steal`, proc_stat(5))."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(int(field) for field in fields[:8]), int(fields[7])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, help="measured rounds of each server (default 5)"
    )
    parser.add_argument(
        "--seconds", type=at_least(1.0), default=60, help="of requests to each target, per round (default 60)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as scratch:
        folder = Path(scratch)
        model = make_model(folder / "model").path
        with plain_vllm(model, folder) as vllm, replica(model, folder) as ours:
            vllm.first_token()
            ours.first_token()
            say = (
                (lambda _: None) if options.json else (lambda text: print(text, file=sys.stderr, flush=True))
            )
            figures = asyncio.run(measure(ours, vllm, options.rounds, options.seconds, say))
    if options.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            values = value if isinstance(value, list) else [value]
            print(f"{key:32}", *(f"{one:.3f}" if isinstance(one, float) else one for one in values))


if __name__ == "__main__":
    main()
