"""Triggers against each broker's own plain consumer, under kills, and with stages woken ahead.

    python benchmarks/triggers.py                          a table
    python benchmarks/triggers.py --json                   one JSON object
    python benchmarks/triggers.py --sources nats,redis --kill-messages 0 --no-wake

Needs the development environment: the brokers are those of the tests, on this machine's loopback. Dispatcher
and plain consumer run in turn, each as a process of its own, against the same function in this process; the
ratios are medians over the rounds. Kafka is librdkafka's mock cluster, SQS is moto's server: their ratios are
of those servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from benchmarks.trigger_brokers import KINDS, RunningBroker, running_broker  # noqa: E402
from knative.client.cluster import Cluster  # noqa: E402
from knative.client.resources import POD, SERVICE  # noqa: E402
from knative.local.platform.config import PlatformConfig  # noqa: E402
from knative.local.platform.platform import Platform  # noqa: E402
from triggers.messages import OutgoingMessage  # noqa: E402
from triggers.sources.base import BrokerError  # noqa: E402
from triggers.sources.factory import make_destination, make_source  # noqa: E402
from triggers.spec.brokers import QueueRef  # noqa: E402
from triggers.spec.trigger import TriggerSpec  # noqa: E402

TARGETS = {"throughput_vs_plain": (">=", 0.5), "added_p50_vs_plain": ("<=", 1.5), "wake_ahead": ("<=", 0.6)}
CONCURRENCY = 10
POISON = 50
"""Every message whose number it divides is refused with 422: it belongs into the dead letter."""
STAGE_START_S = 2.0


@dataclass
class Function:
    """A function in this process that answers at once, and when each message reached it."""

    arrived: dict[int, float] = field(default_factory=dict)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Note the message."""
        now = time.time()
        self.arrived.setdefault(json.loads(await request.read())["n"], now)
        return web.Response()


@contextlib.asynccontextmanager
async def serving(function: Function) -> AsyncIterator[Function]:
    app = web.Application()
    app.router.add_post("/{path:.*}", function.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    function.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield function
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        running = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def dispatcher_command(folder: Path, spec: TriggerSpec) -> list[str]:
    path = folder / "trigger.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(spec.to_object("bench", "default")))))
    options = ["--host", "127.0.0.1", "--port", "0", "--poll-seconds", "1", "--lease-seconds", "5"]
    return [sys.executable, "-m", "triggers", "--trigger", str(path), *options]


def command(arm: str, folder: Path, ref: QueueRef, url: str) -> list[str]:
    if arm == "plain":
        script = Path(__file__).parent / "trigger_consumers.py"
        return [sys.executable, str(script), ref.model_dump_json(exclude_none=True), url]
    spec = TriggerSpec.parse(
        {"source": ref.model_dump(exclude_none=True), "target": {"url": url}, "concurrency": CONCURRENCY}
    )
    return dispatcher_command(folder, spec)


async def publish(
    broker: RunningBroker, ref: QueueRef, numbers: range, pause_s: float = 0.0
) -> dict[int, float]:
    """Publish messages; when each of them was handed to the broker."""
    destination = make_destination(ref, broker.settings())
    await destination.open()
    sent: dict[int, float] = {}

    async def one(number: int) -> None:
        sent[number] = time.time()
        await destination.publish(OutgoingMessage(f"m{number}", json.dumps({"n": number}).encode()))

    step = 1 if pause_s else 50
    for start in range(numbers.start, numbers.stop, step):
        await asyncio.gather(*(one(n) for n in range(start, min(numbers.stop, start + step))))
        await asyncio.sleep(pause_s)
    await destination.close()
    return sent


async def measure(broker: RunningBroker, arm: str, messages: int, singles: int) -> tuple[float, float]:
    """Messages per second of a full queue, and the median seconds from publication to the function."""
    ref = await broker.queue()
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Function()) as function:
            await publish(broker, ref, range(messages))
            run = command(arm, Path(folder), ref, function.url)
            with process(run, broker.environment, Path(folder) / "log") as running:
                await until(lambda: len(function.arrived) >= messages, 120, running)
                times = sorted(function.arrived.values())
                # The first tenth is the start of the process and of the broker's delivery.
                first = times[messages // 10]
                rate = (messages - messages // 10 - 1) / (times[-1] - first)
                await asyncio.sleep(1.0)
                numbers = range(messages, messages + singles)
                sent = await publish(broker, ref, numbers, pause_s=0.03)
                await until(lambda: len(function.arrived) >= messages + singles, 60, running)
            waits = [function.arrived[number] - sent[number] for number in numbers]
    return rate, statistics.median(waits)


async def until(condition: Any, within_s: float, running: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if running is not None and running.poll() is not None:
            raise SystemExit("the process under test has ended")
        if time.monotonic() > deadline:
            raise SystemExit("it took too long")
        await asyncio.sleep(0.01)


async def compare(broker: RunningBroker, rounds: int, messages: int, singles: int) -> dict[str, Any]:
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "trigger": []}
    for number in range(rounds):
        for arm in ("plain", "trigger") if number % 2 == 0 else ("trigger", "plain"):
            found[arm].append(await measure(broker, arm, messages, singles))
    pairs = list(zip(found["plain"], found["trigger"], strict=True))
    return {
        "throughput_vs_plain": round(statistics.median(trigger[0] / plain[0] for plain, trigger in pairs), 3),
        "added_p50_vs_plain": round(statistics.median(trigger[1] / plain[1] for plain, trigger in pairs), 3),
        "messages_per_s": round(statistics.median(trigger[0] for _, trigger in pairs), 1),
        "plain_messages_per_s": round(statistics.median(plain[0] for plain, _ in pairs), 1),
        "p50_ms": round(1000 * statistics.median(trigger[1] for _, trigger in pairs), 2),
        "plain_p50_ms": round(1000 * statistics.median(plain[1] for plain, _ in pairs), 2),
    }


# Kills

FUNCTION = """
import http.server, json, os, sys
log = open(sys.argv[2], "a", buffering=1)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        number = json.loads(self.rfile.read(int(self.headers["content-length"])))["n"]
        poison = number % 50 == 0
        log.write(json.dumps([number, self.headers["idempotency-key"], poison]) + chr(10))
        self.send_response(422 if poison else 200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *words):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


async def survive(broker: RunningBroker, messages: int, kills: int, seed: int) -> dict[str, Any]:
    """Send messages while dispatcher, function and broker are killed at random, then wait for the rest."""
    chance = random.Random(seed)
    source, dead = await broker.queue(), await broker.queue()
    await publish(broker, source, range(messages))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log, port = folder / "calls", broker.free_port()
        log.touch()
        spec = TriggerSpec.parse(
            {
                "source": source.model_dump(exclude_none=True),
                "deadLetter": dead.model_dump(exclude_none=True),
                "target": {"url": f"http://127.0.0.1:{port}"},
                "concurrency": CONCURRENCY,
                "retry": {"attempts": 100, "backoff": {"initial": "200ms", "max": "2s"}},
            }
        )
        victims = {
            "dispatcher": dispatcher_command(folder, spec),
            "function": [sys.executable, "-c", FUNCTION, str(port), str(log)],
        }
        alive: dict[str, subprocess.Popen[bytes]] = {}

        def start(what: str) -> None:
            with (folder / f"{what}.log").open("ab") as output:
                alive[what] = subprocess.Popen(
                    victims[what], stdout=output, stderr=output, env=os.environ | broker.environment
                )

        killed: Counter[str] = Counter()
        order: list[str] = []
        try:
            for what in victims:
                start(what)
            for _ in range(kills):
                before = log.stat().st_size
                while log.stat().st_size < before + 1000 and not all_reached(log, messages):
                    await asyncio.sleep(0.05)
                if all_reached(log, messages):
                    break
                await asyncio.sleep(chance.uniform(0, 0.3))
                if not order:  # each of them as often as the others
                    order = ["dispatcher", "function", *(["broker"] if broker.durable else [])]
                    chance.shuffle(order)
                what = order.pop()
                killed[what] += 1
                if what == "broker":
                    await asyncio.to_thread(broker.kill)
                    await asyncio.sleep(chance.uniform(0, 1))
                    await asyncio.to_thread(broker.start)
                else:
                    alive[what].send_signal(signal.SIGKILL)
                    alive[what].wait()
                    start(what)
            letters = await collect(broker, dead, log, messages)
        finally:
            for one in alive.values():
                one.kill()
                one.wait()
        calls = [json.loads(line) for line in log.read_text().splitlines()]
    done = Counter(number for number, _, poison in calls if not poison)
    keys: dict[int, set[str]] = {}
    for number, key, _ in calls:
        keys.setdefault(number, set()).add(key)
    return {
        "lost": messages - len(set(done) | set(letters)),
        "duplicates": sum(done.values()) - len(done),
        "duplicates_with_another_key": sum(len(found) > 1 for found in keys.values()),
        "dead_lettered": len(set(letters)),
        "kills": dict(killed),
    }


def all_reached(log: Path, messages: int) -> bool:
    """Whether the function saw every message."""
    lines = log.read_text().splitlines()
    return len(lines) >= messages and len({json.loads(line)[0] for line in lines}) >= messages


async def collect(broker: RunningBroker, dead: QueueRef, log: Path, messages: int) -> set[int]:
    """Take the dead letters until every message is accounted for, or nothing has come for half a minute."""
    letters: set[int] = set()
    source = make_source(dead, broker.settings())
    opened, quiet_since, last = False, time.monotonic(), -1
    while True:
        done = {json.loads(line)[0] for line in log.read_text().splitlines() if not json.loads(line)[2]}
        if len(done | letters) >= messages:
            break
        if len(done | letters) != last:
            quiet_since, last = time.monotonic(), len(done | letters)
        if time.monotonic() - quiet_since > 30:
            break
        try:
            if not opened:
                await source.open()
                opened = True
            got = await source.receive(100, 1)
            await source.acknowledge(got)
        except BrokerError:
            opened = False
            await asyncio.sleep(0.2)
            continue
        letters |= {json.loads(one.body)["n"] for one in got}
    await source.close()
    return letters


# Waking ahead

STAGE = f"""
import http.client, http.server, os, time
time.sleep({STAGE_START_S})
following = os.environ["FOLLOWING"]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if following:
            next = http.client.HTTPConnection("127.0.0.1", int(os.environ["GATEWAY"]), timeout=120)
            next.request("POST", "/", body, {{"Host": following + ".default.svc.cluster.local"}})
            assert next.getresponse().status == 200
        self.reply()
    def reply(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


async def wake_ahead(broker: RunningBroker, rounds: int) -> dict[str, Any]:
    """Seconds to the answer of a chain of three stages from zero, with the others woken and without."""
    names = ["first", "second", "third"]
    found: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        config = PlatformConfig(state_dir=Path(folder) / "state", gateway_port=0, api_port=0)
        async with Platform(config) as platform, Cluster.from_kubeconfig(platform.kubeconfig) as cluster:
            gateway = platform.gateway_url.rstrip("/").rsplit(":", 1)[1]
            for name, following in zip(names, [*names[1:], ""], strict=True):
                env = [{"name": "FOLLOWING", "value": following}, {"name": "GATEWAY", "value": gateway}]
                container = {"image": "local/x", "command": ["python", "-c", STAGE], "env": env}
                marks = {"autoscaling.knative.dev/window": "6s"}
                template = {"metadata": {"annotations": marks}, "spec": {"containers": [container]}}
                meta = {"name": name, "namespace": "default"}
                await cluster.create(SERVICE, {"metadata": meta, "spec": {"template": template}})
            for number in range(2 * rounds):
                ahead = number % 2 == 0
                while await cluster.list(POD, "default"):
                    await asyncio.sleep(0.2)
                found[ahead].append(await _one_chain(broker, platform.gateway_url, names, ahead=ahead))
    with_it, without = statistics.median(found[True]), statistics.median(found[False])
    return {
        "wake_ahead": round(with_it / without, 3),
        "wake_ahead_s": round(with_it, 2),
        "without_s": round(without, 2),
    }


async def _one_chain(broker: RunningBroker, gateway: str, names: list[str], *, ahead: bool) -> float:
    ref = await broker.queue()
    spec = TriggerSpec.parse(
        {
            "source": ref.model_dump(exclude_none=True),
            "target": {"service": names[0]},
            "wakeAhead": names[1:],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run = [*dispatcher_command(Path(folder), spec), "--gateway", gateway]
        log = Path(folder) / "log"
        with process(run + ([] if ahead else ["--no-wake-ahead"]), broker.environment, log) as running:
            source = make_source(ref, broker.settings())
            await source.open()
            await until(lambda: "health and metrics" in log.read_text(), 60, running)
            await asyncio.sleep(1)
            began = time.monotonic()
            await publish(broker, ref, range(1))
            while not await _is_done(log, running):
                await asyncio.sleep(0.02)
            await source.close()
            return time.monotonic() - began


async def _is_done(log: Path, running: subprocess.Popen[bytes]) -> bool:
    """Whether the dispatcher has settled a message: its own metrics say so."""
    port = log.read_text().rsplit("health and metrics at port ", 1)[1].split()[0]
    if running.poll() is not None:
        raise SystemExit("the dispatcher has ended")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    page = (await reader.read(-1)).decode()
    writer.close()
    return 'pilotlight_trigger_messages_settled_total{namespace="default",outcome="delivered"' in page


async def run(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"sources": {}}
    for kind in options.sources:
        with running_broker(kind) as broker:
            if broker is None:
                found["sources"][kind] = {"skipped": "the broker is not here"}
                continue
            entry = await compare(broker, options.rounds, options.messages, options.singles)
            if options.kill_messages:
                entry |= await survive(broker, options.kill_messages, options.kills, options.seed)
            found["sources"][kind] = entry
    if options.wake:
        with running_broker("redis") as broker:
            assert broker is not None
            found |= await wake_ahead(broker, options.rounds)
    measured = [entry for entry in found["sources"].values() if "skipped" not in entry]
    if measured:
        found["throughput_vs_plain"] = min(entry["throughput_vs_plain"] for entry in measured)
        found["added_p50_vs_plain"] = max(entry["added_p50_vs_plain"] for entry in measured)
        if options.kill_messages:
            found["lost"] = sum(entry["lost"] for entry in measured)
            found["duplicates"] = sum(entry["duplicates"] for entry in measured)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--sources", type=lambda text: text.split(","), default=list(KINDS), help=",".join(KINDS)
    )
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--messages", type=at_least(100), default=2000, help="of a full queue")
    parser.add_argument(
        "--singles", type=at_least(5), default=60, help="messages one by one, for the latency"
    )
    parser.add_argument("--kill-messages", type=at_least(0), default=10_000, help="0: kill nothing")
    parser.add_argument("--kills", type=at_least(1), default=15)
    parser.add_argument("--seed", type=at_least(0), default=1)
    parser.add_argument("--wake", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if unknown := set(options.sources) - set(KINDS):
        parser.error(f"--sources: {', '.join(sorted(unknown))}, must be of {', '.join(KINDS)}")
    # As Ctrl-C: the brokers that were started are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = asyncio.run(run(options))
    if options.json:
        print(json.dumps(found))
        return
    for kind, entry in found.pop("sources").items():
        print(kind, *(f"{name}={value}" for name, value in entry.items()))
    for name, value in found.items():
        sign, bound = TARGETS.get(name, ("", ""))
        print(f"{name:22} {value}  {sign} {bound}".rstrip())


if __name__ == "__main__":
    main()
