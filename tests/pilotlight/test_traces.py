"""Traces of a running platform, collected by a receiver that reads OTLP as OpenTelemetry's own schema has it."""

import asyncio
import gzip
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from typer.testing import CliRunner

from knative.client.resources import CONFIG_MAP, TRIGGER
from pilotlight import deploy, stack
from pilotlight.agent_reader import load_agent
from pilotlight.cli import app
from pilotlight.compile import compile_agent
from tests.pilotlight.openai_server import openai_server
from tests.triggers.moto_server import moto_server
from transport.spans import SpanQueue, Spans, open_queue
from transport.trace_context import continue_trace
from triggers import operations
from triggers.spec.trigger import TriggerSpec

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@dataclass
class Receiver:
    """What came, by service."""

    url: str
    spans: list[tuple[str, Span]] = field(default_factory=list)

    def of_trace(self, trace: str) -> list[tuple[str, Span]]:
        return [(service, span) for service, span in self.spans if span.trace_id.hex() == trace]


@pytest.fixture
def receiver():
    found = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            for of_service in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {one.key: one.value.string_value for one in of_service.resource.attributes}
                for scope in of_service.scope_spans:
                    found.spans += [(names["service.name"], span) for span in scope.spans]
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield found
        server.shutdown()


def agent(model_url: str) -> dict:
    generate = {
        "name": "generate",
        "kind": "generate",
        "engine": {"type": "openai", "args": {"base-url": model_url, "model": "far"}},
        "scaling": {"initial": 0},
    }
    support = {"name": "support", "kind": "orchestrate", "scaling": {"initial": 0}}
    trigger = {
        "name": "questions",
        "source": {"sqs": {"queue": "questions"}},
        "deadLetter": {"sqs": {"queue": "dead"}},
    }
    return {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "demo"},
        "spec": {"model": {"name": "far"}, "stages": [generate, support], "triggers": [trigger]},
    }


def tree(spans: list[tuple[str, Span]]) -> list[str]:
    """The spans as paths: each one's service and name, below its parent's."""
    by_id = {span.span_id: (service, span) for service, span in spans}

    def path(service: str, span: Span) -> str:
        own = f"{service}:{span.name}"
        above = by_id.get(span.parent_span_id)
        return own if above is None else f"{path(*above)} > {own}"

    return sorted(path(service, span) for service, span in spans)


async def test_a_message_is_one_trace_from_the_queue_to_the_engine(tmp_path, receiver):
    with openai_server() as model_url, moto_server(tmp_path) as queue:
        (tmp_path / "agent.yaml").write_text(yaml.safe_dump(agent(model_url)))
        config = stack.StackConfig(
            state_dir=tmp_path / "state", gateway_port=0, api_port=0, sqs=queue.endpoint,
            env={**stack.inherited_env(), "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url},
        )  # fmt: skip
        async with stack.running(config) as running:
            autoscaler = {"metadata": {"name": "config-autoscaler", "namespace": "knative-serving"}}
            await running.cluster.apply(
                CONFIG_MAP, autoscaler | {"data": {"allow-zero-initial-scale": "true"}}
            )
            await deploy.apply(running.cluster, compile_agent(load_agent(tmp_path / "agent.yaml")))
            [trigger] = await running.cluster.list(TRIGGER, "default")
            settings = operations.settings_for("default/questions-demo", queue.endpoint)
            body = json.dumps({"input": "x"}).encode()
            attributes = {"traceparent": TRACE}
            await operations.send(TriggerSpec.parse(trigger["spec"]), settings, body, attributes, None)
            async with asyncio.timeout(60):
                while not any(name == "POST /invoke" and service == "support-demo" for service, name in (
                    (service, span.name) for service, span in receiver.of_trace("a" * 32)
                )):  # fmt: skip
                    await asyncio.sleep(0.1)
    found = receiver.of_trace("a" * 32)
    consumed = "dispatcher:process default/questions-demo"
    entry = f"{consumed} > activator:activator support-demo"
    invoked = f"{entry} > support-demo:POST /invoke"
    call = f"{invoked} > support-demo:stage call"
    behind = f"{call} > activator:activator generate-demo"
    answered = f"{behind} > generate-demo:POST /invoke"
    assert {
        consumed, entry, f"{entry} > activator:queue", invoked, call, behind, answered,
        f"{answered} > generate-demo:engine",
        f"{invoked} > support-demo:wait for cold start",
        f"{invoked} > support-demo:wait for cold start > support-demo:import",
    } <= set(tree(found))  # fmt: skip
    [first] = [span for _, span in found if span.name.startswith("process")]
    assert first.parent_span_id.hex() == "b" * 16
    assert first.kind == Span.SPAN_KIND_CONSUMER
    for _, span in found:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    starts = [
        span for service, span in receiver.spans if (service, span.name) == ("generate-demo", "cold start")
    ]
    assert [start.parent_span_id for start in starts] == [b""], "a trace of its own"
    [start] = starts
    phases = [span for _, span in receiver.spans if span.parent_span_id == start.span_id]
    assert {phase.name for phase in phases} == {"import", "init"}
    for phase in phases:
        assert start.start_time_unix_nano - 10**6 <= phase.start_time_unix_nano
        assert phase.end_time_unix_nano <= start.end_time_unix_nano + 10**6


class StuckExporter(SpanExporter):
    """A receiver that does not answer until it is let go."""

    def __init__(self) -> None:
        self.busy, self.let_go = threading.Event(), threading.Event()

    def export(self, spans) -> SpanExportResult:  # noqa: ARG002 - the protocol
        self.busy.set()
        self.let_go.wait(30)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing to close."""


def test_spans_that_nobody_takes_are_dropped_and_counted():
    exporter = StuckExporter()
    queue = SpanQueue(exporter, limit=4, delay_s=0.01)
    spans = Spans(queue, "x")
    for _ in range(10):
        spans.record("s", traceparent=continue_trace(None), parent=None, began=0.0)
    assert exporter.busy.wait(30)
    assert queue.counts.dropped == 6
    exporter.let_go.set()
    queue.close()
    counts = queue.counts
    assert (counts.exported, counts.dropped, counts.failed) == (4, 6, 0)


def test_a_trace_that_is_not_sampled_is_not_exported():
    exporter = StuckExporter()
    queue = SpanQueue(exporter, limit=4, delay_s=0.01)
    for _ in range(10):
        Spans(queue, "x").record("s", traceparent=TRACE[:-2] + "00", parent=None, began=0.0)
    queue.close()
    assert not exporter.busy.is_set()
    assert queue.counts.dropped == 0


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported():
    code = (
        "import sys; from functions.http.app import create_app; from functions.settings import FunctionSettings;"
        "from functions.stages.postprocess import build; s = FunctionSettings.parse({}); create_app(build(s), s);"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert open_queue({}) is None
    assert open_queue({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}) is None


async def test_a_stage_counts_what_became_of_its_spans(tmp_path, receiver):
    from tests.functions.servers import stage_process, wait_ready

    with stage_process(
        "postprocess", tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_BSP_SCHEDULE_DELAY="100"
    ) as stage:
        async with aiohttp.ClientSession() as http:
            await wait_ready(http, stage.url)
            async with http.post(
                f"{stage.url}/invoke", json={"input": "x"}, headers={"traceparent": TRACE}
            ) as response:
                assert response.status == 200
            async with http.get(f"{stage.url}/metrics") as response:
                assert 'pilotlight_spans_total{outcome="dropped"} 0.0' in await response.text()
        stage.terminate()
        assert stage.wait() == 0
    [(service, span)] = [one for one in receiver.of_trace("a" * 32) if one[1].name == "POST /invoke"]
    assert (service, span.parent_span_id.hex()) == ("postprocess", "b" * 16)


def test_the_endpoint_of_an_agent_file_reaches_stages_and_dispatchers(tmp_path):
    named = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.monitoring:4318"}
    document = agent("http://localhost:1/v1")
    document["spec"] |= {
        "env": named,
        "dispatcher": {"image": "example.com/triggers:1", "awsSecret": "aws", "env": named},
    }
    document["spec"]["triggers"][0]["source"]["sqs"]["region"] = "eu-central-1"
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(document))
    done = CliRunner().invoke(app, ["render", "--dispatchers", "-f", str(tmp_path / "agent.yaml")])
    rendered = CliRunner().invoke(app, ["render", "-f", str(tmp_path / "agent.yaml")])
    assert (done.exit_code, rendered.exit_code) == (0, 0), (done.output, rendered.output)
    objects = [one for text in (done.stdout, rendered.stdout) for one in yaml.safe_load_all(text) if one]
    pods = [one["spec"]["template"]["spec"] for one in objects if one["kind"] in {"Service", "Deployment"}]
    found = [{one["name"]: one.get("value") for one in pod["containers"][0]["env"]} for pod in pods]
    assert len(found) == 3
    assert all(variables.items() >= named.items() for variables in found)
