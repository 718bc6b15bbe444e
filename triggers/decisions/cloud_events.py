"""CloudEvents 1.0 from messages, to HTTP requests, and from responses (pure).

A message that is a CloudEvent already, in binary or structured mode, keeps all its attributes and bytes; any
other one becomes the data of an event whose id is the message's and whose source is the queue.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and .../bindings/http-protocol-binding.md
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote

from triggers.messages import Message, OutgoingMessage

BATCH: Final = "application/cloudevents-batch+json"
STRUCTURED: Final = "application/cloudevents+json"
EVENT_ID: Final = "pilotlight-event-id"
"""Attribute of a message that was published again: the id that its event had before."""
_REQUIRED: Final = ("id", "source", "type")
_PREFIXES: Final = ("ce-", "ce_", "cloudEvents:", "cloudEvents_")
"""Of attributes, in the bindings for HTTP, NATS, Kafka and AMQP."""
_NAME: Final = re.compile(r"[a-z0-9]{1,20}")
_UNQUOTED: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_LONGEST_EXTENSION: Final = 1024


class MalformedEventError(ValueError):
    """It says that it is a CloudEvent, and is none; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvent.

    Attributes:
        attributes: all context attributes as texts, extensions included.
        data: the bytes of the data.
        structured: the JSON document that the publisher wrote, which is sent on as it is.
    """

    attributes: Mapping[str, str]
    data: bytes
    structured: bytes | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """Names the event within its source."""
        return self.attributes["id"]

    @property
    def key(self) -> str:
        """Names the event among all: equal for duplicates, printable, 64 characters."""
        return hashlib.sha256(f"{self.attributes['source']}\n{self.id}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class HttpMessage:
    """Header fields and body of a request."""

    headers: Mapping[str, str]
    body: bytes


def event_of(message: Message, *, source: str, kind: str) -> Event:
    """The event that a message is, or becomes.

    Args:
        message: from the queue.
        source: the queue's address.
        kind: of broker, e.g. `sqs`, for the type `dev.pilotlight.sqs.message`.

    Raises:
        MalformedEventError: the message says that it is a CloudEvent, and is none.
    """
    content_type = message.attributes.get("content-type")
    found = _binary_attributes(message.attributes)
    if found is not None:
        if content_type is not None:
            found["datacontenttype"] = content_type
        return Event(_checked(found), message.body)
    if content_type is not None and _media_type(content_type) == STRUCTURED:
        return _structured(message.body)
    if content_type is None and _looks_structured(message.body):
        return _structured(message.body)
    return _made(message, source, kind, content_type)


def _binary_attributes(attributes: Mapping[str, str]) -> dict[str, str] | None:
    for prefix in _PREFIXES:
        found = {
            name[len(prefix) :].lower(): value
            for name, value in attributes.items()
            if name[: len(prefix)].lower() == prefix.lower()
        }
        if "specversion" in found:
            return found
    return None


def _made(message: Message, source: str, kind: str, content_type: str | None) -> Event:
    attributes = {
        "specversion": "1.0",
        "id": message.attributes.get(EVENT_ID) or message.id,
        "source": source,
        "type": f"dev.pilotlight.{kind}.message",
        "datacontenttype": content_type or _content_type(message.body),
    }
    if message.enqueued is not None:
        attributes["time"] = message.enqueued.isoformat().replace("+00:00", "Z")
    if message.group is not None:
        attributes["partitionkey"] = message.group
    for name, value in message.attributes.items():
        if _NAME.fullmatch(name) and name != "data" and 0 < len(value) <= _LONGEST_EXTENSION:
            attributes.setdefault(name, value)
    return Event(attributes, message.body)


def _content_type(body: bytes) -> str:
    """What a body without a content type is taken for."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    try:
        json.loads(text)
    except ValueError:
        return "text/plain; charset=utf-8"
    return "application/json"


def _looks_structured(body: bytes) -> bool:
    """A JSON object with all required attributes: queues without content types hold such ones."""
    if body.lstrip()[:1] != b"{" or b'"specversion"' not in body:
        return False
    try:
        document = json.loads(body)
    except ValueError:
        return False
    return isinstance(document, dict) and all(name in document for name in ("specversion", *_REQUIRED))


def _structured(body: bytes) -> Event:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise MalformedEventError(f"the CloudEvent is not JSON: {error}") from None
    return _from_document(document, body)


def _from_document(document: object, body: bytes) -> Event:
    if not isinstance(document, dict):
        raise MalformedEventError("the CloudEvent must be a JSON object")
    attributes: dict[str, str] = {}
    for name, value in document.items():
        if name in {"data", "data_base64"} or value is None:
            continue
        if isinstance(value, bool):
            attributes[name] = "true" if value else "false"
        elif isinstance(value, str | int):
            attributes[name] = str(value)
        else:
            raise MalformedEventError(f"attribute {name!r} must be a text, a whole number or a boolean")
    if "data" in document and "data_base64" in document:
        raise MalformedEventError("the CloudEvent must have at most one of data and data_base64")
    if "data_base64" in document:
        try:
            data = base64.b64decode(document["data_base64"], validate=True)
        except (ValueError, TypeError):
            raise MalformedEventError("data_base64 must be base64") from None
    else:
        value = document.get("data")
        json_data = _is_json(attributes.get("datacontenttype", "application/json"))
        data = (
            b""
            if value is None
            else str(value).encode()
            if isinstance(value, str) and not json_data
            else _dumps(value)
        )
    return Event(_checked(attributes), data, structured=body)


def _checked(attributes: dict[str, str]) -> dict[str, str]:
    version = attributes.get("specversion", "")
    if version.split(".")[0] != "1":
        raise MalformedEventError(f"specversion = {version[:32]!r}, must be 1.0")
    for name in _REQUIRED:
        if not attributes.get(name):
            raise MalformedEventError(
                f"the CloudEvent has no {name}; must have id, source, specversion and type"
            )
    for name in attributes:
        if not (name.isascii() and name.isalnum() and name == name.lower()):
            raise MalformedEventError(
                f"attribute {name[:64]!r} must have lower-case letters and digits as name"
            )
    return attributes


def binary_request(event: Event) -> HttpMessage:
    """The event in binary mode: attributes in header fields, the data as the body."""
    headers = {
        f"ce-{name}": quote(value, safe=_UNQUOTED)
        for name, value in event.attributes.items()
        if name != "datacontenttype"
    }
    if "datacontenttype" in event.attributes:
        headers["content-type"] = _one_line(event.attributes["datacontenttype"])
    return HttpMessage(headers, event.data)


def structured_request(event: Event) -> HttpMessage:
    """The event in structured mode: one JSON document."""
    body = event.structured if event.structured is not None else _dumps(_document(event))
    return HttpMessage({"content-type": STRUCTURED}, body)


def batch_request(events: Sequence[Event]) -> HttpMessage:
    """Events in batched mode: a list of JSON documents."""
    documents = [
        event.structured if event.structured is not None else _dumps(_document(event)) for event in events
    ]
    return HttpMessage({"content-type": BATCH}, b"[" + b",".join(documents) + b"]")


def _document(event: Event) -> dict[str, Any]:
    document: dict[str, Any] = dict(event.attributes)
    content_type = event.attributes.get("datacontenttype", "application/json")
    if not event.data:
        return document
    if _is_json(content_type):
        try:
            return {**document, "data": json.loads(event.data)}
        except ValueError:
            pass  # not what it says: the bytes go as they are
    elif _media_type(content_type).startswith("text/"):
        try:
            return {**document, "data": event.data.decode()}
        except UnicodeDecodeError:
            pass
    return {**document, "data_base64": base64.b64encode(event.data).decode()}


def event_of_response(headers: Mapping[str, str], body: bytes) -> Event | None:
    """The CloudEvent in a response; None: it has none. Names of `headers` are in lower case.

    Raises:
        MalformedEventError: it says that it is one, and is none.
    """
    content_type = headers.get("content-type")
    if content_type is not None and _media_type(content_type) == STRUCTURED:
        return _structured(body)
    if "ce-specversion" not in headers:
        return None
    attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return Event(_checked(attributes), body)


def wrapped_response(event: Event, *, source: str, content_type: str | None, body: bytes) -> Event:
    """An answer that is no CloudEvent as the data of one; its `replyto` names the event it answers."""
    attributes = {
        "specversion": "1.0",
        "id": f"{event.key}-reply",
        "source": source,
        "type": "dev.pilotlight.reply",
        "datacontenttype": content_type or "application/octet-stream",
        "replyto": event.id,
    }
    return Event(attributes, body)


def outgoing(event: Event, group: str | None = None) -> OutgoingMessage:
    """The event as a message to publish: binary, or the document that it came as."""
    if event.structured is not None:
        return OutgoingMessage(event.id, event.structured, {"content-type": STRUCTURED}, group)
    attributes = {
        f"ce-{name}": value for name, value in event.attributes.items() if name != "datacontenttype"
    }
    if "datacontenttype" in event.attributes:
        attributes["content-type"] = event.attributes["datacontenttype"]
    return OutgoingMessage(event.id, event.data, attributes, group)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_json(content_type: str) -> bool:
    media_type = _media_type(content_type)
    return media_type.endswith(("/json", "+json"))


def _one_line(text: str) -> str:
    return quote(text, safe=_UNQUOTED + ' "')


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
