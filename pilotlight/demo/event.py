"""One event from a queue, from zero: message in, cold start, answer out, acknowledged."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from knative.client.cluster import Cluster
from knative.client.resources import TRIGGER
from pilotlight.agent import Agent
from pilotlight.compile_triggers import trigger_object
from pilotlight.demo.errors import DemoError
from triggers import operations
from triggers.messages import Message
from triggers.spec.trigger import TriggerSpec

_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class EventMeasurement:
    """What became of the event.

    Attributes:
        trigger: its name.
        warmth: how the event found the model, e.g. `cold`.
        answered_s: seconds from the message's publication to the answer in the reply queue.
        acknowledged_s: seconds until the Trigger's status says that it was delivered.
        text: the beginning of the answer.
    """

    trigger: str
    warmth: str
    answered_s: float
    acknowledged_s: float
    text: str

    def to_json(self) -> dict[str, Any]:
        """As `report.json` has it."""
        rounded = {"answered_s": round(self.answered_s, 3), "acknowledged_s": round(self.acknowledged_s, 3)}
        return asdict(self) | rounded


async def send_one(
    cluster: Cluster, sqs: str | None, agent: Agent, prompt: str, progress: Callable[[str], None]
) -> EventMeasurement | None:
    """Send a question to the agent's first queue with replies and wait for its answer; None: it has none.

    Raises:
        DemoError: no answer came, or one that is no answer.
    """
    entry = next((one for one in agent.spec.triggers if one.reply is not None), None)
    if entry is None:
        return None
    obj = trigger_object(agent, entry)
    name, namespace = obj["metadata"]["name"], obj["metadata"]["namespace"]
    spec = TriggerSpec.parse(obj["spec"])
    settings = operations.settings_for(f"{namespace}/{name}", sqs)
    body = json.dumps({"input": prompt, "parameters": {"max_tokens": 24}}).encode()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            began = perf_counter()
            await operations.send(spec, settings, body, {"content-type": "application/json"}, None)
            progress("message in; the stages start side by side")
            reply = await operations.take_reply(spec, settings)
            answered = perf_counter() - began
            progress("answer out; waiting for the acknowledgement")
            await _until_delivered(cluster, name, namespace)
            return _measured(name, reply, answered, perf_counter() - began)
    except TimeoutError:
        raise DemoError(f"trigger {name}: no answer in {_TIMEOUT_S:g} s") from None


async def _until_delivered(cluster: Cluster, name: str, namespace: str) -> None:
    async for _, obj in cluster.watch(TRIGGER, namespace):
        if obj["metadata"]["name"] == name and (obj.get("status") or {}).get("delivered"):
            return


def _measured(name: str, reply: Message, answered_s: float, acknowledged_s: float) -> EventMeasurement:
    try:
        answer = json.loads(reply.body)
        warmth = [timing["warmth"] for timing in answer["timings"] if timing.get("ttft") is not None]
        return EventMeasurement(
            name, warmth[0] if warmth else "?", answered_s, acknowledged_s, answer["output"][:60]
        )
    except (ValueError, KeyError, TypeError):
        shown = reply.body[:200].decode("utf-8", "replace")
        raise DemoError(f"trigger {name}: the reply is no answer of an agent: {shown}") from None
