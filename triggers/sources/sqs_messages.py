"""SQS messages as values and back (pure).

SQS takes text without most control characters and ten attributes a message. What does not fit is packed: any
other body in base64 with `content-encoding: base64`, further attributes as JSON in `pilotlight-attributes`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from triggers.messages import Message, OutgoingMessage

MAX_ATTRIBUTES: Final = 10
MAX_GROUP: Final = 128
PACKED: Final = "pilotlight-attributes"
_ENCODING: Final = "content-encoding"
_EMPTY: Final = " "
"""The body of a message without one: SQS asks for a character."""
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Everything but what XML 1.0 allows, which is what SQS takes."""
_NAME: Final = re.compile(r"[A-Za-z0-9_\-.]{1,256}")
_ID: Final = re.compile(r"[!-~]{1,128}")


def from_sqs(raw: Mapping[str, Any]) -> Message:
    """A message of ReceiveMessage."""
    system = raw.get("Attributes", {})
    attributes = _attributes(raw.get("MessageAttributes", {}))
    body = str(raw.get("Body", "")).encode("utf-8", "surrogatepass")
    if attributes.get(_ENCODING) == "base64":
        try:
            body = base64.b64decode(body.strip(), validate=True)
            del attributes[_ENCODING]
        except binascii.Error:
            pass  # the publisher meant something else: the body goes on as it came
    sent = system.get("SentTimestamp")
    count = system.get("ApproximateReceiveCount")
    return Message(
        id=str(raw["MessageId"]),
        body=body,
        attributes=attributes,
        attempt=int(count) if count is not None else None,
        enqueued=datetime.fromtimestamp(int(sent) / 1000, UTC) if sent is not None else None,
        group=system.get("MessageGroupId"),
        receipt=raw["ReceiptHandle"],
    )


def _attributes(raw: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in raw.items():
        text = value.get("StringValue")
        if text is None:
            text = base64.b64encode(value.get("BinaryValue", b"")).decode()
        found[name.lower() if name.lower() in {"content-type", _ENCODING} else name] = str(text)
    packed = found.pop(PACKED, None)
    if packed is not None:
        try:
            more = json.loads(packed)
        except ValueError:
            more = None
        if isinstance(more, dict):
            found = {**{str(name): str(value) for name, value in more.items()}, **found}
    return found


def to_sqs(message: OutgoingMessage, *, fifo: bool) -> dict[str, Any]:
    """The parameters of SendMessage but the queue."""
    body, attributes = _text(message.body), dict(message.attributes)
    if body is None:
        body = base64.b64encode(message.body).decode() or _EMPTY
        attributes[_ENCODING] = "base64"
    parameters: dict[str, Any] = {"MessageBody": body}
    if attributes := _fitting(attributes):
        parameters["MessageAttributes"] = {
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }
    if fifo:
        parameters["MessageGroupId"] = _identifier(message.group or message.id)
        parameters["MessageDeduplicationId"] = _identifier(message.id)
    return parameters


def _text(body: bytes) -> str | None:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if not text or _FORBIDDEN.search(text) else text


def _fitting(attributes: Mapping[str, str]) -> dict[str, str]:
    """At most ten attributes with names and values that SQS takes; the others packed into one."""
    plain = {
        name: value
        for name, value in attributes.items()
        if _NAME.fullmatch(name) and value and not _FORBIDDEN.search(value)
    }
    packed = {name: value for name, value in attributes.items() if name not in plain}
    # Those of this package are added last, and are what a person looks for in the console: they stay.
    names = sorted(plain, key=lambda name: not name.startswith("pilotlight-"))
    room = MAX_ATTRIBUTES if len(names) <= MAX_ATTRIBUTES and not packed else MAX_ATTRIBUTES - 1
    packed |= {name: plain[name] for name in names[room:]}
    fitting = {name: plain[name] for name in names[:room]}
    return {**fitting, PACKED: json.dumps(packed)} if packed else fitting


def _identifier(text: str) -> str:
    """A group or deduplication id: the text itself where SQS takes it, else its digest."""
    return text if _ID.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()
