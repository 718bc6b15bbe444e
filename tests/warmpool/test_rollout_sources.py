"""What a rollout is judged by: pages of replicas, a real Prometheus, and answers to prompts."""

import asyncio
import math
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from tests.warmpool.prometheus import metrics_page, needs_prometheus, prometheus
from tests.warmpool.reconcile.builders import NOW
from warmpool.adapters.answer_metrics import ReplicaCounts, ReplicaTotals, add_up, parse_page
from warmpool.adapters.answer_source import Answers
from warmpool.adapters.answers import ReplicaAnswers
from warmpool.adapters.prometheus_answers import PrometheusAnswers
from warmpool.adapters.prometheus_api import PrometheusServer
from warmpool.adapters.quality import ReplicaQuality, as_expected
from warmpool.controller.answer_reader import AnswerReader
from warmpool.domain.answers import AnswerCounts, RolloutWindow
from warmpool.domain.proportions import Proportion
from warmpool.domain.rollout import QualityCheck, QualityPrompt, Rollout

WINDOW = RolloutWindow(("default", "s"), "s-00001", "s-00002", 5, NOW)


def page(good, bad=0, slow=0, *, refusals=None):
    where = 'kind="generate",stage="generate"'
    total = good + bad
    name = "pilotlight_time_to_first_token_seconds_bucket"
    lines = [
        f'pilotlight_requests_total{{code="200",{where}}} {good}',
        f'pilotlight_requests_total{{code="503",{where}}} {bad}',
        f'{name}{{le="0.1",{where}}} {total - slow}',
        f'{name}{{le="+Inf",{where}}} {total}',
        "pilotlight_requests_total this is no line",
        'other_total{x="y"} 3',
    ]
    if refusals is not None:
        lines.append(f"pilotlight_refusals_total{{{where}}} {refusals}")
    return "\n".join(lines) + "\n"


def test_a_page_becomes_totals_and_what_is_malformed_is_left_out():
    totals = parse_page(page(90, 10, 7, refusals=2))
    assert (totals.answers, totals.errors, totals.refusals) == (100, 10, 2)
    assert totals.histograms["pilotlight_time_to_first_token_seconds"] == {0.1: 93, math.inf: 100}
    assert not parse_page("<html>\n\x00{{{").tells
    assert parse_page('pilotlight_requests_total{code="x"} NaN').answers == 0


def test_first_answers_of_a_replica_are_not_judged_by_their_latency_but_by_their_errors():
    replica = ReplicaCounts(ReplicaTotals())
    for text in (page(0), page(3, 1, slow=4), page(10, 2, slow=4)):
        replica.add(parse_page(text))
    counts = add_up([replica.grown()])
    assert (counts.answers, counts.errors) == (12, 2)
    assert counts.ttft.above(0.1) == Proportion(0, 8)  # of the eight after the four cold ones


def test_a_replica_that_starts_anew_keeps_what_it_had_counted():
    replica = ReplicaCounts(parse_page(page(100)))
    for text in (page(110, 5), page(4, 1)):
        replica.add(parse_page(text))
    counts = add_up([*replica.ended, replica.grown()])
    assert (counts.answers, counts.errors) == (15 + 5, 5 + 1)


@needs_prometheus
async def test_a_prometheus_counts_both_revisions_by_their_pods(tmp_path, unused_tcp_port_factory):
    def series(revision, good, bad):
        labels = f'namespace="default",pod="{revision}-deployment-abc"'
        text = page(good, bad).replace('kind="generate"', labels)
        return "\n".join(line for line in text.splitlines() if line.endswith(tuple("0123456789")))

    def shown(*counts):
        return "\n".join(series(f"s-0000{n}", *entry) for n, entry in enumerate(counts, start=1)) + "\n"

    async with metrics_page() as served:
        served.text = shown((100, 0), (10, 0))
        async with prometheus(tmp_path / "p", unused_tcp_port_factory(), served.url) as url:
            source = PrometheusAnswers(PrometheusServer(url))
            window = RolloutWindow(("default", "s"), "s-00001", "s-00002", 5, datetime.now(UTC))
            for _ in range(300):
                counts, problem = await source.read(window)
                if counts.get("s-00002", AnswerCounts()).ttft is not None:
                    break
                await asyncio.sleep(0.1)
            served.text = shown((500, 0), (60, 20))
            for _ in range(300):
                counts, problem = await source.read(window)
                # `increase` extrapolates, the less the more samples lie in the window.
                canary = counts["s-00002"]
                if canary.errors == pytest.approx(20, rel=0.5) and canary.answers == pytest.approx(
                    70, rel=0.5
                ):
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.fail(f"{counts}: {problem}")
            assert not problem
            assert counts["s-00001"].errors == 0
    none, problem = await source.read(window)
    assert not none
    assert "does not answer" in problem


async def test_a_rollout_names_its_source(cluster):
    answers = Answers(ReplicaAnswers(cluster))
    _, problem = await answers.read(WINDOW, Rollout(source="prometheus"))
    assert "start it with --prometheus" in problem
    counts, problem = await answers.read(WINDOW, Rollout())
    assert (counts, problem) == ({"s-00001": AnswerCounts(), "s-00002": AnswerCounts()}, "")


@pytest.mark.parametrize(
    ("answer", "prompt", "expected"),
    [
        ("Hello World", {"contains": ["world"]}, True),
        ("Hello", {"contains": ["world"]}, False),
        ("As an AI", {"excludes": ["as an ai"]}, False),
        ('{"a": 1}', {"json_object": True}, True),
        ("[1]", {"json_object": True}, False),
        ("  ", {}, False),
    ],
)
def test_an_answer_has_the_properties_of_its_prompt_or_not(answer, prompt, expected):
    assert as_expected(answer, QualityPrompt(prompt="p", **prompt)) is expected


class Pods:
    """What the quality check asks of a cluster: one pod of each Revision."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports

    async def list(self, resource, *_):
        names = (WINDOW.stable, WINDOW.canary)
        if resource.kind == "Revision":
            return [{"metadata": {"name": name}} for name in names]
        ready = {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
        return [
            {
                "metadata": {
                    "labels": {"serving.knative.dev/revision": name},
                    "annotations": {"pilotlight.dev/port": str(port)},
                },
                "status": ready,
            }
            for port, name in zip(self.ports, names, strict=True)
        ]


async def test_both_revisions_are_asked_and_judged():
    texts, keys, judged = {}, set(), []

    async def invoke(request):
        keys.add(request.headers.get("authorization"))
        port = request.transport.get_extra_info("sockname")[1]
        return web.json_response({"output": texts[port]}, status=200 if texts[port] else 401)

    async def judge(request):
        judged.append(await request.json())
        return web.json_response({"pass": True} if len(judged) < 4 else {"score": 1})

    app = web.Application()
    app.router.add_post("/invoke", invoke)
    app.router.add_post("/judge", judge)
    runner = web.AppRunner(app)
    await runner.setup()
    for _ in range(2):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    first, second = (address[1] for address in runner.addresses)
    texts |= {first: "The answer is 4", second: "I do not know"}
    try:
        quality = ReplicaQuality(Pods(first, second), key="secret")
        prompts = ({"prompt": "2 + 2?", "contains": ["4"]}, {"prompt": "Hello"})
        check = QualityCheck.model_validate({"prompts": prompts})
        found, problem = await quality.ask(WINDOW, check)
        assert (found, problem) == ({"s-00001": Proportion(0, 2), "s-00002": Proportion(1, 2)}, "")
        assert keys == {"Bearer secret"}
        by_judge = check.model_copy(update={"judge": f"http://127.0.0.1:{first}/judge"})
        assert (await quality.ask(WINDOW, by_judge))[0] == found
        assert {"prompt": "2 + 2?", "answer": "The answer is 4"} in judged
        assert 'without {"pass": true}' in (await quality.ask(WINDOW, by_judge))[1]
        texts[second] = ""
        assert "HTTP 401 at /invoke" in (await quality.ask(WINDOW, check))[1]
        nobody = RolloutWindow(WINDOW.service, "s-00001", "s-00009", 0, NOW)
        assert "waits for a ready replica of s-00009" in (await quality.ask(nobody, check))[1]
    finally:
        await runner.cleanup()


async def test_a_reader_asks_once_in_an_interval_and_survives_a_faulty_source():
    class Source:
        def __init__(self) -> None:
            self.asked = 0

        async def read(self, *_):
            self.asked += 1
            if self.asked > 1:
                raise RuntimeError("boom")
            return {"s-00002": AnswerCounts(5)}, ""

        def forget(self, windows) -> None:
            pass

    source, plan = Source(), Rollout()
    reader = AnswerReader(source, None)
    for seconds in (0, 0.5, 1, 1.5):
        await reader.read({WINDOW: plan}, NOW + timedelta(seconds=seconds))
    assert source.asked == 2
    assert "boom" in reader.of(WINDOW.service).problem
    await reader.read({}, NOW + timedelta(seconds=3))
    assert reader.of(WINDOW.service) is None
    await reader.close()
