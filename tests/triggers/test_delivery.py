"""Messages of a real queue are delivered to a function, or end in the dead-letter queue with their reason."""

import asyncio
import json
import os
import time

import pytest
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from tests.triggers.source_contract import LEASE_S
from triggers.delivery.target import MAX_BODY
from triggers.dispatcher import Options


async def test_a_message_becomes_a_cloud_event_and_is_acknowledged(rig):
    await rig.queues()
    async with rig.dispatching() as dispatcher:
        await rig.send(b'{"input": "hi"}', tenant="x7")
        await rig.until_settled("delivered", 1)
        [call] = rig.function.calls
        assert call.path == "/invoke"
        assert call.body == b'{"input": "hi"}'
        assert call.headers["content-type"] == "application/json"
        event = from_http_event(HTTPMessage(headers=call.headers, body=call.body))
        assert event.get_type() == "dev.pilotlight.sqs.message"
        assert event.get_source() == dispatcher._source.address
        assert event.get_attributes()["tenant"] == "x7"
        assert event.get_data() == {"input": "hi"}
        assert call.headers["x-pilotlight-retries"] == "0", "the queue retries, nobody else does"
        assert call.headers["idempotency-key"]
    assert await rig.waiting() == 0


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503])
async def test_a_failed_attempt_is_tried_again_with_the_same_identity(rig, status):
    await rig.queues()
    answers = [status, 200]
    rig.function.handler = lambda _call: web.Response(status=answers.pop(0))
    async with rig.dispatching():
        await rig.send(b"{}")
        await rig.until_settled("delivered", 1)
    first, second = rig.function.calls
    assert first.event_id == second.event_id
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert [call.headers["x-pilotlight-attempt"] for call in (first, second)] == ["1", "2"]


async def test_a_poisoned_message_reaches_the_dead_letter_after_its_attempts_with_their_history(rig):
    await rig.queues()
    rig.function.handler = lambda _call: web.Response(status=500, text="no such\ncustomer")
    async with rig.dispatching():
        await rig.send(b'{"poison": true}', tenant="x")
        await rig.until_settled("dead-lettered", 1)
    assert len(rig.function.calls) == 3
    [letter] = await rig.dead_letters(1)
    assert letter.message.body == b'{"poison": true}'
    assert letter.message.attributes["tenant"] == "x"
    assert letter.reason == "3 attempts failed, the last one: http-500"
    assert letter.response == "no such customer"
    assert (letter.trigger, letter.attempts) == ("default/test", 3)
    assert [one["reason"] for one in letter.history] == ["http-500"] * 3
    assert await rig.waiting() == 0


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 302])
async def test_a_rejected_message_is_not_tried_again(rig, status):
    await rig.queues()
    rig.function.handler = lambda _call: web.Response(status=status, text="cannot")
    async with rig.dispatching():
        await rig.send(b"{}")
        await rig.until_settled("dead-lettered", 1)
    assert len(rig.function.calls) == 1
    [letter] = await rig.dead_letters(1)
    assert (letter.reason, letter.response) == (f"rejected: http-{status}", "cannot")


async def test_retry_after_is_obeyed(rig):
    await rig.queues()
    times: list[float] = []

    def answer(_call):
        times.append(time.monotonic())
        return web.Response(status=503, headers={"Retry-After": "2"}) if len(times) == 1 else web.Response()

    rig.function.handler = answer
    async with rig.dispatching():
        await rig.send(b"{}")
        await rig.until_settled("delivered", 1)
    assert 1.9 < times[1] - times[0] < 6


async def test_a_target_without_room_costs_no_attempt_and_is_asked_more_slowly(rig):
    await rig.queues()
    times: list[float] = []

    def answer(_call):
        times.append(time.monotonic())
        busy = len(times) <= 2
        return web.Response(status=429 if busy else 200, headers={"Retry-After": "0"} if busy else {})

    rig.function.handler = answer
    async with rig.dispatching(retry={"attempts": 1}):
        await rig.send(b"{}")
        await rig.until_settled("delivered", 1)
    assert len(times) == 3
    assert times[2] - times[0] > 2 * 0.4, "it backs off, whatever Retry-After says"


async def test_a_request_that_takes_longer_than_the_visibility_timeout_is_no_failure(rig):
    await rig.queues()

    async def answer(_call):
        await asyncio.sleep(7)  # the queue's visibility timeout is 4 s
        return web.Response()

    rig.function.handler = answer
    async with rig.dispatching(options=Options(poll_s=1, lease_s=4)):
        await rig.send(b"{}")
        await rig.until_settled("delivered", 1)
    assert len(rig.function.calls) == 1
    assert rig.metric("pilotlight_trigger_lost_loans_total") in {None, 0}


async def test_what_is_not_utf_8_arrives_as_it_was_sent(rig):
    await rig.queues()
    async with rig.dispatching():
        await rig.send(b"\xff\x00\xfe")
        await rig.until_settled("delivered", 1)
    [call] = rig.function.calls
    assert (call.body, call.headers["content-type"]) == (b"\xff\x00\xfe", "application/octet-stream")


EVENT = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "order.created", "data": {"n": 1}}


async def test_a_structured_cloud_event_passes_unchanged(rig):
    await rig.queues()
    body = json.dumps(EVENT, indent=1).encode()
    async with rig.dispatching():
        await rig.send(body, content_type="application/cloudevents+json")
        await rig.send(body)  # SQS has no content type of its own
        await rig.until_settled("delivered", 2)
    assert [call.body for call in rig.function.calls] == [body, body]
    assert {call.headers["content-type"] for call in rig.function.calls} == {"application/cloudevents+json"}
    assert len({call.headers["idempotency-key"] for call in rig.function.calls}) == 1, "the same event"


async def test_a_binary_cloud_event_keeps_its_attributes(rig):
    await rig.queues()
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": "e-2",
        "ce_source": "/shop",
        "ce_type": "order",
        "ce_tenant": "ä",
    }
    async with rig.dispatching():
        await rig.send(b"data", content_type="text/plain", **attributes)
        await rig.until_settled("delivered", 1)
    [call] = rig.function.calls
    event = from_http_event(HTTPMessage(headers=call.headers, body=call.body))
    assert (event.get_id(), event.get_source(), event.get_type()) == ("e-2", "/shop", "order")
    assert event.get_attributes()["tenant"] == "ä"
    assert event.get_data() == "data"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{not json", "is not JSON"),
        (b'{"specversion": "1.0", "source": "/x", "type": "y"}', "has no id"),
        (b'{"specversion": "0.3", "id": "1", "source": "/x", "type": "y"}', "specversion"),
    ],
)
async def test_a_malformed_cloud_event_is_a_dead_letter_and_is_not_sent(rig, body, says):
    await rig.queues()
    async with rig.dispatching():
        await rig.send(body, content_type="application/cloudevents+json")
        [letter] = await rig.dead_letters(1)
    assert rig.function.calls == []
    assert letter.reason == "rejected: malformed-event"
    assert says in str(letter.response)
    assert letter.message.body == body


async def test_events_that_a_filter_does_not_let_pass_are_acknowledged_and_not_sent(rig):
    await rig.queues()
    other = {**EVENT, "id": "e-3", "type": "order.deleted"}
    async with rig.dispatching(filters=[{"exact": {"type": "order.created"}}]):
        await rig.send(json.dumps(other).encode(), json.dumps(EVENT).encode())
        await rig.until_settled("delivered", 1)
        await rig.until_settled("filtered", 1)
    assert len(rig.function.calls) == 1
    assert await rig.waiting() == 0


async def test_an_answer_goes_to_the_reply_queue(rig):
    await rig.queues()
    replies = await rig.broker.queue()
    headers = {"ce-specversion": "1.0", "ce-id": "r-1", "ce-source": "/fn", "ce-type": "answer"}
    answers = [
        web.Response(text="a CloudEvent", headers=headers),
        web.json_response({"output": "none"}),
        web.Response(),
    ]
    rig.function.handler = lambda _call: answers.pop(0)
    async with rig.dispatching(reply=replies.model_dump(exclude_none=True), concurrency=1):
        await rig.send(b"1", b"2", b"3")
        await rig.until_settled("delivered", 3)
    rig.dead = replies
    got = sorted((letter.message for letter in await rig.dead_letters(2)), key=lambda one: one.body)
    assert (got[0].body, got[0].attributes["ce-id"], got[0].attributes["ce-type"]) == (
        b"a CloudEvent",
        "r-1",
        "answer",
    )
    assert json.loads(got[1].body) == {"output": "none"}
    assert got[1].attributes["ce-type"] == "dev.pilotlight.reply"
    assert got[1].attributes["ce-replyto"] in {call.event_id for call in rig.function.calls}


async def test_an_answer_that_cannot_be_a_reply_is_a_dead_letter_and_the_function_is_not_called_again(rig):
    await rig.queues()
    replies = await rig.broker.queue()
    rig.function.handler = lambda _call: web.Response(body=b"x" * (MAX_BODY + 1))
    async with rig.dispatching(reply=replies.model_dump(exclude_none=True)):
        await rig.send(b"{}")
        [letter] = await rig.dead_letters(1)
    assert "too long" in str(letter.reason)
    assert len(rig.function.calls) == 1


async def test_a_batch_is_one_request_and_only_its_failed_items_come_again(rig):
    await rig.queues()
    failed_once: set[str] = set()

    def answer(call):
        assert call.headers["content-type"] == "application/cloudevents-batch+json"
        bad = [e["id"] for e in json.loads(call.body) if e["data"] == {"n": 3} and e["id"] not in failed_once]
        failed_once.update(bad)
        return web.json_response({"batchItemFailures": [{"itemIdentifier": one} for one in bad]})

    rig.function.handler = answer
    await rig.send(*(json.dumps({"n": n}).encode() for n in range(5)))
    async with rig.dispatching(batch={"size": 5, "window": "2s"}):
        await rig.until_settled("delivered", 5)
    sizes = [len(json.loads(call.body)) for call in rig.function.calls]
    assert sizes[-1] == 1, "what failed is sent alone"
    assert sum(sizes) == 6
    assert rig.settled("retried") == 1


async def test_a_batch_that_is_rejected_is_sent_one_by_one(rig):
    await rig.queues()

    def answer(call):
        bad = any(event["data"] == {"n": 1} for event in json.loads(call.body))
        return web.Response(status=400 if bad else 200)

    rig.function.handler = answer
    await rig.send(*(json.dumps({"n": n}).encode() for n in range(3)))
    async with rig.dispatching(batch={"size": 3, "window": "2s"}):
        await rig.until_settled("delivered", 2)
        [letter] = await rig.dead_letters(1)
    assert json.loads(letter.message.body) == {"n": 1}


async def test_concurrency_and_rate_have_their_bounds(rig):
    await rig.queues()

    async def answer(_call):
        await asyncio.sleep(0.05)
        return web.Response()

    rig.function.handler = answer
    await rig.send(*[b"{}"] * 12)
    began = time.monotonic()
    async with rig.dispatching(concurrency=2, rate={"perSecond": 10, "burst": 2}):
        await rig.until_settled("delivered", 12)
    assert rig.function.most_concurrent == 2
    assert time.monotonic() - began > 0.9, "ten of twelve wait a tenth of a second each"


async def test_a_group_keeps_its_order_and_a_poisoned_one_does_not_stop_the_others(rig):
    await rig.queues(ordered=True)

    def answer(call):
        return web.Response(status=500 if call.body == b"a1" else 200)

    rig.function.handler = answer
    for number in range(3):
        await rig.send(b"a%d" % number, group="a")
        await rig.send(b"b%d" % number, group="b")
    async with rig.dispatching(retry={"attempts": 2, "backoff": {"initial": "1s"}}):
        await rig.function.until(lambda: any(call.body == b"b2" for call in rig.function.calls))
        assert not any(call.body == b"a2" for call in rig.function.calls), "b did not wait for a"
        await rig.until_settled("delivered", 5)
        [letter] = await rig.dead_letters(1)
    bodies = [call.body for call in rig.function.calls]
    assert [body for body in bodies if body.startswith(b"a")] == [b"a0", b"a1", b"a1", b"a2"]
    assert [body for body in bodies if body.startswith(b"b")] == [b"b0", b"b1", b"b2"]
    assert letter.message.body == b"a1"


async def test_the_token_of_a_mounted_secret_is_sent_and_followed(rig, tmp_path):
    await rig.queues()
    folder = tmp_path / "secrets" / "support-stage-token"
    folder.mkdir(parents=True)
    (folder / "current").write_text("first-token\n")
    options = Options(
        poll_s=1,
        lease_s=LEASE_S,
        environment={**os.environ, "PILOTLIGHT_TRIGGER_SECRETS": str(tmp_path / "secrets")},
    )
    target = {"url": rig.function.url, "auth": {"stageToken": "support-stage-token"}}
    async with rig.dispatching(target=target, options=options):
        await rig.send(b"1")
        await rig.until_settled("delivered", 1)
        (folder / "current").write_text("second-token")
        await rig.send(b"2")
        await rig.until_settled("delivered", 2)
    assert [call.headers["x-pilotlight-stage-token"] for call in rig.function.calls] == [
        "first-token",
        "second-token",
    ]
