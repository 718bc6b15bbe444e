"""Decisions as tables: answers, retries, concurrency, rate, CloudEvents, dead letters."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st

from triggers.decisions import dead_letters
from triggers.decisions.answers import (
    Outcome,
    Verdict,
    failed_items,
    one_line,
    outcome_of_status,
    retry_after,
)
from triggers.decisions.cloud_events import (
    Event,
    MalformedEventError,
    batch_request,
    binary_request,
    event_of,
    event_of_response,
    outgoing,
    structured_request,
)
from triggers.decisions.concurrency import ConcurrencyLimit
from triggers.decisions.rates import TokenBucket
from triggers.decisions.retries import Attempt, GiveUp, TryAgain, after_failure, delay, with_attempt
from triggers.messages import Message
from triggers.sources.sqs_messages import from_sqs, to_sqs
from triggers.spec.trigger import Backoff, Rate, Retry

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
FAILED = Outcome(Verdict.FAILED, "http-500")


@pytest.mark.parametrize(
    ("status", "undelivered", "verdict"),
    [
        (200, False, "delivered"), (202, False, "delivered"), (204, False, "delivered"),
        (408, False, "failed"), (425, False, "failed"), (500, False, "failed"), (503, False, "failed"),
        (429, False, "throttled"), (429, True, "throttled"),
        (404, True, "unreachable"), (421, True, "unreachable"), (503, True, "unreachable"), (504, True, "unreachable"),
        (404, False, "rejected"), (400, False, "rejected"), (403, True, "rejected"), (301, False, "rejected"),
    ],
)  # fmt: skip
def test_what_a_status_means(status, undelivered, verdict):
    assert outcome_of_status(status, {}, "", NOW, undelivered=undelivered).verdict == verdict


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-1", None), ("5", 5.0), (" 7 ", 7.0), ("999999999999999", 3600.0),
        ("Tue, 01 Dec 2026 12:00:30 GMT", 30.0), ("Tue, 01 Dec 2026 11:00:00 GMT", 0.0),
    ],
)  # fmt: skip
def test_retry_after(value, seconds):
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("body", "failed"),
    [
        (b"", []), (b"ok", []), (b"null", []), (b"{}", []), (b"[]", []),
        (b'{"batchItemFailures": null}', []), (b'{"batchItemFailures": []}', []),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}]}', ["b"]),
        (b'{"batchItemFailures": "b"}', ["a", "b"]), (b'{"batchItemFailures": [{"itemIdentifier": "z"}]}', ["a", "b"]),
        (b'{"batchItemFailures": [{}]}', ["a", "b"]), (b'{"batchItemFailures": ["a"]}', ["a", "b"]),
    ],
)  # fmt: skip
def test_partial_batches(body, failed):
    assert sorted(failed_items(body, ["a", "b"])) == failed


def test_an_excerpt_is_one_short_line():
    assert one_line("a\r\n\tb\x00 c" + "x" * 5000).startswith("a b c")
    assert len(one_line("x" * 5000)) == 500


@pytest.mark.parametrize(
    ("attempt", "age_s", "outcome", "decision"),
    [
        (1, 0.0, FAILED, TryAgain(2.0)),
        (2, None, FAILED, TryAgain(4.0)),
        (1, 0.0, Outcome(Verdict.FAILED, "http-503", retry_after_s=30.0), TryAgain(30.0)),
        (3, 0.0, FAILED, GiveUp("3 attempts failed, the last one: http-500")),
        (9, 0.0, FAILED, GiveUp("9 attempts failed, the last one: http-500")),
        (1, 0.0, Outcome(Verdict.REJECTED, "http-400"), GiveUp("rejected: http-400")),
        (1, 59.0, FAILED, GiveUp("not delivered in 60 s, the last attempt: http-500")),
    ],
)
def test_after_a_failure(attempt, age_s, outcome, decision):
    retry = Retry(attempts=3, backoff=Backoff(initial=2.0, factor=2.0, max=100.0), total_time=60.0)
    assert after_failure(retry, outcome, attempt=attempt, age_s=age_s, jitter=0.0) == decision


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_delay_has_its_bounds_at_every_attempt(failures, jitter):
    backoff = Backoff(initial=1.0, factor=3.0, max=300.0)
    assert 0.5 <= delay(backoff, failures, jitter) <= 300.0


def test_a_long_history_keeps_its_beginning_and_its_end():
    history: tuple[Attempt, ...] = ()
    for number in range(1, 100):
        history = with_attempt(history, Attempt(NOW, number, "r", ""))
    assert [one.number for one in history] == [*range(1, 6), *range(85, 100)]


def test_concurrency_falls_with_429_and_latency_and_rises_with_success():
    limit = ConcurrencyLimit.start(16)
    for at in range(50):
        limit = limit.after(Verdict.DELIVERED, seconds=0.1, in_flight=16, now=at * 0.01)
    assert limit.requests == 16
    limit = limit.after(Verdict.THROTTLED, seconds=0.1, in_flight=16, now=1.0)
    assert limit.requests == 8
    assert limit.after(Verdict.THROTTLED, seconds=0.1, in_flight=16, now=1.5).requests == 8, "of before"
    limit = limit.after(Verdict.THROTTLED, seconds=0.1, in_flight=8, now=2.1)
    assert limit.requests == 4
    for at in range(100):
        limit = limit.after(Verdict.DELIVERED, seconds=0.1, in_flight=limit.requests, now=3 + at * 0.01)
    assert 12 <= limit.requests <= 16
    before = limit.limit
    limit = limit.after(Verdict.DELIVERED, seconds=1.0, in_flight=12, now=10.0)
    assert limit.limit == pytest.approx(before * 0.9)
    assert limit.after(Verdict.DELIVERED, seconds=None, in_flight=12, now=20.0) == limit, "a cold start"
    assert limit.after(Verdict.UNREACHABLE, seconds=None, in_flight=12, now=20.0).requests == 1


def test_an_unused_limit_does_not_rise():
    limit = ConcurrencyLimit(16, 4.0)
    assert limit.after(Verdict.DELIVERED, seconds=0.1, in_flight=1, now=0).limit == 4.0


def test_a_token_bucket_lets_a_burst_pass_and_then_its_rate():
    bucket, waits = TokenBucket.full(Rate(per_second=2.0, burst=3), 100.0), []
    for _ in range(5):
        bucket, wait = bucket.take(1, 100.0)
        waits.append(wait)
    assert waits == [0.0, 0.0, 0.0, 0.5, 1.0]
    bucket, wait = bucket.take(1, 200.0)
    assert wait == 0.0


def message(body: bytes = b"{}", **attributes: str) -> Message:
    names = {name.replace("_", "-"): value for name, value in attributes.items()}
    return Message("m-1", body, names, 1, NOW, "g-1")


@given(
    st.binary(max_size=200),
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True), st.text(min_size=1, max_size=20), max_size=4
    ),
)
def test_a_made_event_is_one_for_the_sdk_too_in_both_modes(body, attributes):
    reserved = {
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "data",
        "datacontenttype",
        "dataschema",
        "subject",
    }
    attributes = {
        k: v for k, v in attributes.items() if k not in reserved and v.isprintable() and v.strip() == v
    }
    event = event_of(Message("m-1", body, attributes, 1, NOW), source="arn:q", kind="sqs")
    for request in (binary_request(event), structured_request(event)):
        found = from_http_event(HTTPMessage(headers=dict(request.headers), body=request.body))
        assert (found.get_id(), found.get_source(), found.get_type()) == (
            "m-1",
            "arn:q",
            "dev.pilotlight.sqs.message",
        )
        assert found.get_time() == NOW
        for name, value in attributes.items():
            assert found.get_attributes()[name] == value
    assert binary_request(event).body == body


def test_a_batch_is_a_list_of_structured_events():
    events = [
        event_of(message(b'{"n": 1}'), source="q", kind="sqs"),
        event_of(message(b"\xff"), source="q", kind="sqs"),
    ]
    first, second = json.loads(batch_request(events).body)
    assert (first["data"], first["partitionkey"]) == ({"n": 1}, "g-1")
    assert second["data_base64"] == "/w=="


@pytest.mark.parametrize("prefix", ["ce-", "ce_", "cloudEvents:", "cloudEvents_"])
def test_events_of_every_binding_keep_their_attributes(prefix):
    names = {"specversion": "1.0", "id": "e", "source": "/s", "type": "t", "subject": "x"}
    received = Message(
        "m", b"d", {**{prefix + name: value for name, value in names.items()}, "content-type": "text/plain"}
    )
    assert event_of(received, source="q", kind="nats").attributes == {
        **names,
        "datacontenttype": "text/plain",
    }


@pytest.mark.parametrize(
    "headers",
    [{"ce-specversion": "2.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}, {"ce-specversion": "1.0"}],
)
def test_an_answer_that_is_no_cloud_event_but_says_so(headers):
    with pytest.raises(MalformedEventError):
        event_of_response(headers, b"")


def test_an_answer_without_attributes_is_no_event():
    assert event_of_response({"content-type": "application/json"}, b"{}") is None


def test_an_event_that_is_published_is_the_same_one_when_it_comes_back():
    event = Event(
        {"specversion": "1.0", "id": "e", "source": "/s", "type": "t", "datacontenttype": "text/plain"}, b"x"
    )
    sent = outgoing(event)
    assert event_of(Message("other", sent.body, sent.attributes), source="q", kind="sqs") == event


def test_a_dead_letter_says_all_and_its_replay_is_the_message_with_the_id_of_its_event():
    history = (
        Attempt(NOW, 1, "http-500", "first"),
        Attempt(NOW + timedelta(seconds=1), 2, "timeout", "last"),
    )
    letter = dead_letters.dead_letter(
        message(b"\xff", tenant="x"),
        event_id="e-1", trigger="default/t", source="arn:q", reason="2 attempts failed", attempts=2,
        history=history, at=NOW,
    )  # fmt: skip
    arrived = Message("dead-1", letter.body, letter.attributes)
    read = dead_letters.read(arrived)
    assert (read.reason, read.response, read.trigger, read.attempts) == (
        "2 attempts failed",
        "last",
        "default/t",
        2,
    )
    assert [one["reason"] for one in read.history] == ["http-500", "timeout"]
    again = dead_letters.replayed(arrived, "u")
    assert (again.body, again.group, again.attributes["tenant"]) == (b"\xff", "g-1", "x")
    assert not [name for name in again.attributes if name in {dead_letters.REASON, dead_letters.HISTORY}]
    event = event_of(Message("new", again.body, again.attributes), source="arn:q", kind="sqs")
    assert event.id == "e-1"
    assert again.id != letter.id


def test_dead_letters_of_a_message_and_of_its_replay_are_no_duplicates_of_each_other():
    def letter(identity: str) -> str:
        made = dead_letters.dead_letter(
            Message(identity, b"x"),
            event_id="e-1", trigger="default/t", source="arn:q", reason="r", attempts=1, history=(), at=NOW,
        )  # fmt: skip
        return made.id

    assert letter("m-1") == letter("m-1"), "published again after a lost answer"
    assert letter("m-1") != letter("m-2"), "the same event, replayed"


@pytest.mark.parametrize("attributes", [{}, {"pilotlight-origin": "no JSON"}, {"pilotlight-origin": "[1]"}])
def test_a_message_that_another_program_put_there_is_read_too(attributes):
    read = dead_letters.read(Message("m", b"x", attributes))
    assert (read.reason, read.trigger, read.attempts, read.history) == (None, None, None, ())
    assert dead_letters.replayed(Message("m", b"x", attributes), "u").body == b"x"


@given(
    st.binary(max_size=300),
    st.dictionaries(st.text(min_size=1, max_size=12), st.text(max_size=12), max_size=14),
)
def test_sqs_holds_any_message(body, attributes):
    from triggers.messages import OutgoingMessage

    lower = {"content-type", "content-encoding"}
    attributes = {
        name: value
        for name, value in attributes.items()
        if name.lower() not in lower and name != "pilotlight-attributes"
    }
    sent = to_sqs(OutgoingMessage("id", body, attributes, "gr\u00fc\u00dfe"), fifo=True)
    assert len(sent.get("MessageAttributes", ())) <= 10
    assert sent["MessageBody"]
    raw = {
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Body": sent["MessageBody"],
        "MessageAttributes": sent.get("MessageAttributes", {}),
    }
    got = from_sqs(raw)
    assert got.body == body
    assert got.attributes == attributes
