"""The first answer of a tool-using agent from zero, its tool woken ahead or not."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from knative.client.cluster import Cluster
from knative.client.resources import POD, SERVICE
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform

MODEL_START_S, TOOL_START_S = 2.0, 4.0
"""What the model's and the tool's processes do before they listen, as a load of weights does."""
WRITE_S = 4.0
"""For so long the model writes the arguments of its call: 120 tokens at 30 a second."""
WAYS = ("never", "call", "request")
"""`wake` of the tool: by the call itself; once the model has named it; with the request."""
_MODEL = Path(__file__).with_name("agents_model.py")
_TOOL = """
import http.server, json, os, sys, time
time.sleep(float(sys.argv[1]))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer()
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer()
    def answer(self):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


async def wake_ahead(rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds to the answer, each way, in turns, everything at zero before; and ratios to `never`."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        config = PlatformConfig(state_dir=Path(folder) / "state", gateway_port=0, api_port=0)
        async with (
            Platform(config) as platform,
            Cluster.from_kubeconfig(platform.kubeconfig) as cluster,
            aiohttp.ClientSession() as session,
        ):
            await _deploy(cluster)
            for _ in range(rounds):
                for way, times in found.items():
                    while await cluster.list(POD, "default"):
                        await asyncio.sleep(0.2)
                    began = time.monotonic()
                    async with session.post(
                        f"{platform.gateway_url}/default/front-{way}/invoke", json={"input": "Where is it?"}
                    ) as response:
                        reply = await response.json()
                        if response.status != 200 or reply["output"] != "It is on its way.":
                            raise RuntimeError(f"no answer: {reply}")
                    times.append(time.monotonic() - began)
                    tell(f"tool woken {way:8} {times[-1]:6.2f} s")
    middle = {way: statistics.median(times) for way, times in found.items()}
    return {
        "ratio": round(middle["call"] / middle["never"], 3),
        "with_the_request": round(middle["request"] / middle["never"], 3),
        "seconds": {way: round(value, 2) for way, value in middle.items()},
        "model_start_s": MODEL_START_S,
        "tool_start_s": TOOL_START_S,
        "arguments_s": WRITE_S,
    }


async def _deploy(cluster: Cluster) -> None:
    stages = [{"name": "model", "kind": "generate", "url": "http://model.default.svc.cluster.local"}]
    tool = {
        "type": "function",
        "url": "http://lookup.default.svc.cluster.local/",
        "service": True,
        "description": "Looks up an order.",
        "parameters": {"type": "object", "properties": {"order": {"type": "string"}}},
    }
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        "model": (["python", str(_MODEL), str(MODEL_START_S), str(WRITE_S)], {}),
        "lookup": (["python", "-c", _TOOL, str(TOOL_START_S)], {}),
    }
    for way in WAYS:
        graph = {
            "nodes": [{"name": "desk"}],
            "agents": {"desk": {"model": "model", "tools": ["lookup"]}},
            "tools": {"lookup": {**tool, "wake": way}},
        }
        env = {"PILOTLIGHT_STAGES": json.dumps(stages), "PILOTLIGHT_GRAPH": json.dumps(graph)}
        commands[f"front-{way}"] = (["python", "-m", "functions", "orchestrate"], env)
    for name, (command, env) in commands.items():
        variables = [{"name": key, "value": value} for key, value in env.items()]
        container = {"image": "local/x", "command": command, "env": variables}
        marks = {"autoscaling.knative.dev/window": "6s"}
        template = {"metadata": {"annotations": marks}, "spec": {"containers": [container]}}
        meta = {"name": name, "namespace": "default"}
        await cluster.create(SERVICE, {"metadata": meta, "spec": {"template": template}})
