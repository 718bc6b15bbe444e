"""What goes wrong, and what happens then: one line that says it, no busy loop, nothing lost."""

import asyncio
import logging
import re
import socket
import time

import pytest
from aiohttp import web

from tests.triggers.dispatcher_process import DispatcherProcess, line_count
from tests.triggers.moto_server import MotoServer, moto_server
from tests.triggers.rig import Rig, until
from tests.triggers.source_contract import LEASE_S
from triggers.dispatcher import Options
from triggers.spec.brokers import QueueRef, SqsQueue


@pytest.fixture
async def process(rig, tmp_path):
    made: list[DispatcherProcess] = []

    def start(*options: str, **fields) -> DispatcherProcess:
        made.append(DispatcherProcess(tmp_path, rig.spec(**fields), *options))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.end()


async def test_killed_between_the_functions_answer_and_the_acknowledgement_the_event_comes_again_with_its_key(
    rig, process
):
    await rig.queues()
    dispatcher = None

    def answer(_call):
        if len(rig.function.calls) == 1:
            dispatcher.kill()  # the function has done its work, and nobody hears of it
        return web.Response()

    rig.function.handler = answer
    await rig.send(b'{"n": 1}')
    dispatcher = process()
    await rig.function.until(lambda: len(rig.function.calls) == 1)
    process()
    await rig.function.until(lambda: len(rig.function.calls) == 2)
    first, second = rig.function.calls
    assert first.event_id == second.event_id
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    async with asyncio.timeout(10):
        while await rig.waiting():
            await asyncio.sleep(0.1)


async def test_sigterm_finishes_what_is_under_way_and_gives_the_rest_back(rig, process):
    await rig.queues()
    release = asyncio.Event()

    async def answer(_call):
        await release.wait()
        return web.Response()

    rig.function.handler = answer
    await rig.send(*(b"%d" % number for number in range(6)))
    dispatcher = process("--drain-seconds", "20", concurrency=2)
    await rig.function.until(lambda: len(rig.function.calls) == 2)
    assert (await asyncio.to_thread(dispatcher.get, "/healthz/ready"))[0] == 200
    ending = asyncio.create_task(asyncio.to_thread(dispatcher.terminate))
    async with asyncio.timeout(15):
        while await rig.waiting() < 4:  # given back at once, not after their visibility timeout
            await asyncio.sleep(0.1)
    assert not ending.done(), "two requests are under way"
    release.set()
    assert await ending == 0
    assert len(rig.function.calls) == 2
    assert await rig.waiting() == 4


async def test_what_is_not_answered_in_the_drain_time_goes_back(rig, process):
    await rig.queues()

    async def answer(_call):
        await asyncio.sleep(60)
        return web.Response()

    rig.function.handler = answer
    await rig.send(b"slow")
    dispatcher = process("--drain-seconds", "0.5")
    await rig.function.until(lambda: len(rig.function.calls) == 1)
    assert await asyncio.to_thread(dispatcher.terminate) == 0
    assert "requests were not answered in 0.5 s" in dispatcher.log
    assert await rig.waiting() == 1


async def test_a_broker_that_goes_away_is_one_line_and_nothing_is_lost(tmp_path, function, sqs, caplog):
    with moto_server(tmp_path) as server:
        rig = Rig(server, function)
        name = "orders"
        server.client().create_queue(QueueName=name)
        rig.source, rig.dead = server.ref(name), await server.queue()
        with caplog.at_level(logging.INFO, "triggers"):
            async with rig.dispatching() as dispatcher:
                await rig.send(b"before")
                await rig.until_settled("delivered", 1)
                server.kill()
                await until(lambda: dispatcher.health.trouble("source") is not None)
                began = time.process_time()
                await asyncio.sleep(3)  # of the outage, in which it must not spin
                assert time.process_time() - began < 1.5
                server.start()
                # This server forgets: somebody makes the queue again. The dispatcher says what it sees meanwhile.
                server.client().create_queue(QueueName=name)
                await rig.send(b"after")
                await rig.until_settled("delivered", 2, within_s=60)
                assert dispatcher.health.trouble("source") is None
    lines = [record.getMessage() for record in caplog.records if "queue" in record.getMessage()]
    assert len(lines) <= 4, lines
    assert "no answer from" in lines[0]
    assert lines[-1] == "trigger default/test: the queue works again"


@pytest.mark.parametrize("kind", ["missing", "nowhere"])
async def test_a_queue_that_is_not_there_is_one_line_and_a_condition(rig, caplog, kind):
    await rig.queues()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        ref = {
            "missing": rig.broker.missing_queue(),
            "nowhere": QueueRef(sqs=SqsQueue(queue="q", region="eu-central-1", endpoint=nowhere)),
        }[kind]
        rig.source = ref
        async with rig.dispatching() as dispatcher:
            await until(lambda: dispatcher.health.trouble("source") is not None)
            trouble = dispatcher.health.trouble("source")
            assert trouble is not None
            assert trouble.reason == {"missing": "Misconfigured", "nowhere": "Unavailable"}[kind]
            began = time.process_time()
            await asyncio.sleep(2)
            assert time.process_time() - began < 1.0
            assert rig.metric("pilotlight_trigger_up", part="source") == 0
    assert line_count(caplog.text, "trigger default/test: queue: ") == 1


async def test_refused_credentials_are_one_line_without_the_secret(rig, function, caplog, monkeypatch):
    """AWS' own answer, which moto does not give."""
    refused = (
        '{"__type": "com.amazon.coral.service#InvalidClientTokenId",'
        ' "message": "The security token included in the request is invalid."}'
    )
    function.handler = lambda _call: web.Response(
        status=403, text=refused, content_type="application/x-amz-json-1.0"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-key")
    await rig.queues()
    rig.source = QueueRef(sqs=SqsQueue(queue="orders", region="eu-central-1", endpoint=function.url))
    async with rig.dispatching() as dispatcher:
        await until(lambda: dispatcher.health.trouble("source") is not None)
        trouble = dispatcher.health.trouble("source")
        assert trouble is not None
        assert trouble.reason == "Misconfigured"
        asked = len(function.calls)
        await asyncio.sleep(1)
        assert len(function.calls) == asked, "it does not ask again and again"
    assert "InvalidClientTokenId" in caplog.text
    assert "a-very-secret-key" not in caplog.text


async def test_a_missing_dead_letter_queue_loses_nothing_and_does_not_call_the_function_again(rig, caplog):
    await rig.queues()
    rig.function.handler = lambda _call: web.Response(status=400)
    name = "dead-letters-that-come-later"
    async with rig.dispatching(
        deadLetter=rig.broker.ref(name).model_dump(exclude_none=True),
        retry={"attempts": 3, "backoff": {"initial": "2s"}},
    ):
        await rig.send(b"x")
        await rig.until_settled("kept", 1)
        assert line_count(caplog.text, "dead-letter queue: ") == 1
        rig.broker.client().create_queue(QueueName=name)
        rig.dead = rig.broker.ref(name)
        await rig.until_settled("dead-lettered", 1, within_s=60)
    [letter] = await rig.dead_letters(1)
    assert letter.reason == "rejected: http-400"
    assert len(rig.function.calls) == 1


async def test_without_a_dead_letter_queue_a_message_stays(rig, caplog):
    await rig.queues()
    rig.function.handler = lambda _call: web.Response(status=400)
    async with rig.dispatching(deadLetter=None, retry={"backoff": {"initial": "60s"}}):
        await rig.send(b"x", b"y")
        await rig.until_settled("kept", 2)
    assert line_count(caplog.text, "there is no deadLetter") == 1
    attributes = rig.broker.client().get_queue_attributes(
        QueueUrl=rig.broker.client().get_queue_url(QueueName=rig.source.sqs.queue)["QueueUrl"],
        AttributeNames=["ApproximateNumberOfMessagesNotVisible"],
    )["Attributes"]
    assert attributes == {"ApproximateNumberOfMessagesNotVisible": "2"}


async def test_a_reply_queue_that_is_away_holds_the_message_and_the_function_is_called_once(rig):
    await rig.queues()
    name = "replies-that-come-later"
    reply = rig.broker.ref(name).model_dump(exclude_none=True)
    options = Options(poll_s=1, lease_s=2 * LEASE_S)
    async with rig.dispatching(reply=reply, options=options) as dispatcher:
        await rig.send(b"x")
        await until(lambda: dispatcher.health.trouble("reply") is not None)
        await asyncio.sleep(2 * LEASE_S + 1)  # longer than the loan, which is prolonged
        rig.broker.client().create_queue(QueueName=name)
        await rig.until_settled("delivered", 1)
    assert len(rig.function.calls) == 1
    assert await rig.waiting(rig.broker.ref(name)) == 1


async def test_a_target_that_answers_garbage_fails_and_one_that_is_not_there_is_waited_for(rig, caplog):
    await rig.queues()

    async def garbage(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x00\xffthis is no HTTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = {"url": f"http://127.0.0.1:{port}"}
    async with server, rig.dispatching(target=target, retry={"attempts": 2, "backoff": {"initial": "100ms"}}):
        await rig.send(b"x")
        [letter] = await rig.dead_letters(1)
    assert letter.reason == "2 attempts failed, the last one: connection"
    # Nobody listens there any more: no attempt is used up.
    async with rig.dispatching(target=target, retry={"attempts": 1}) as dispatcher:
        await rig.send(b"y")
        await until(lambda: dispatcher.health.trouble("target") is not None)
        await asyncio.sleep(1)
        assert line_count(caplog.text, "trigger default/test: target: connect: ") == 1
        await rig.function.stop()
        await rig.function.start(port)
        await rig.until_settled("delivered", 1)


async def test_a_paused_trigger_takes_nothing_and_tells_its_backlog(rig):
    await rig.queues()
    await rig.send(b"1", b"2")
    target = {"service": "function"}
    async with rig.dispatching(paused=True, target=target) as dispatcher:
        await until(lambda: dispatcher.snapshot.backlog.messages == 2)
        assert rig.metric("pilotlight_trigger_backlog") == 2
        labels = {"service": "function", "queue": dispatcher._source.address}
        assert rig.metric("pilotlight_queue_backlog", **labels) == 2
    assert rig.function.calls == []


async def test_the_stages_behind_the_target_are_woken_with_the_first_message(rig):
    await rig.queues()
    woken: list[tuple[str, str]] = []

    def answer(call):
        if call.path == "/healthz/live":
            woken.append((call.request.method, call.headers["host"]))
        return web.Response()

    rig.function.handler = answer
    options = Options(gateway=rig.function.url, poll_s=1, lease_s=LEASE_S)
    async with rig.dispatching(
        target={"service": "front", "path": "/invoke"}, wakeAhead=["ingest", "generate"], options=options
    ):
        await rig.send(b"1", b"2", b"3")
        await rig.until_settled("delivered", 3)
        await until(lambda: len(woken) == 2)
    assert sorted(woken) == [
        ("GET", "generate.default.svc.cluster.local"), ("GET", "ingest.default.svc.cluster.local"),
    ]  # fmt: skip
    posts = [call for call in rig.function.calls if call.path == "/invoke"]
    assert {call.headers["host"] for call in posts} == {"front.default.svc.cluster.local"}


def test_the_process_says_what_is_wrong_with_its_file_in_one_line_each(tmp_path, capfd):
    from typer.testing import CliRunner

    from triggers.__main__ import app

    file = tmp_path / "trigger.yaml"
    file.write_text(
        "kind: Trigger\nmetadata: {name: x}\nspec: {source: {sqs: {queue: q}}, retry: {attempts: 0}}\n"
    )
    answer = CliRunner().invoke(app, ["--trigger", str(file)])
    assert answer.exit_code == 1
    assert re.findall(r"^error: (.*)$", answer.output, re.MULTILINE) == [
        "spec.retry.attempts = 0, must be at least 1",
        "spec.target must be given",
    ]


@pytest.fixture(autouse=True)
def _is_moto(rig) -> None:
    assert isinstance(rig.broker, MotoServer)
