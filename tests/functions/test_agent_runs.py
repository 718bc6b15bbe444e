"""An agent's loop as a durable run: what is killed is taken up again, and no tool acts twice."""

import asyncio
import json
from contextlib import ExitStack

from functions.contract import StageReply, Usage
from functions.dialogue import FunctionCall, Message, Role, ToolCall
from tests.functions.run_servers import counting_tool, kill, runs_config, submit, until
from tests.functions.servers import scripted, stage_process, wait_ready, wait_until

CHARGE = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "input": {"type": "string"}},
    "required": ["id", "input"],
    "additionalProperties": False,
}


class Model:
    """Charges two orders at once, then a third, then answers; what it says follows from the conversation."""

    def __init__(self):
        self.asked = []
        self.waits_in_turn = None

    async def __call__(self, request, _context):
        results = [message.text for message in request.input if message.role is Role.TOOL]
        turn = {0: 1, 2: 2, 3: 3}[len(results)]
        self.asked.append(turn)
        while self.waits_in_turn == turn:
            await asyncio.sleep(0.02)
        orders = {1: ("a", "b"), 2: ("c",)}.get(turn, ())
        calls = tuple(
            ToolCall(
                id=f"call_{order}",
                function=FunctionCall(name="charge", arguments=json.dumps({"id": "x", "input": order})),
            )
            for order in orders
        )
        said = [json.loads(result)["output"] if result[:1] == "{" else result for result in results]
        output = (Message(role=Role.ASSISTANT, tool_calls=calls),) if calls else ", ".join(said)
        return StageReply(
            id=request.id,
            stage="model",
            output=output,
            finish_reason="tool_calls" if calls else "stop",
            usage=Usage(prompt_tokens=5, completion_tokens=2),
        )


def variables_of(tool, model_url, config):
    graph = {
        "nodes": [{"name": "assistant"}],
        "agents": {"assistant": {"model": "model", "tools": ["charge"]}},
        "tools": {
            "charge": {
                "type": "function",
                "url": f"{tool.url}/charge",
                "description": "Charges an order.",
                "parameters": CHARGE,
            }
        },
    }
    return {
        "PILOTLIGHT_STAGES": json.dumps([{"name": "model", "kind": "generate", "url": model_url}]),
        "PILOTLIGHT_STAGE_CONFIG": json.dumps(config),
        "PILOTLIGHT_GRAPH": json.dumps(graph),
    }


async def test_the_model_is_told_which_call_a_person_has_refused(http, tmp_path):
    config = runs_config(tmp_path / "runs.sqlite", approve=["charge"])
    with counting_tool(tmp_path / "tool") as tool, ExitStack() as processes:
        async with scripted(Model()) as (_, model_url):
            variables = variables_of(tool, model_url, config)
            process = processes.enter_context(stage_process("orchestrate", tmp_path, **variables))
            await wait_ready(http, process.url)
            _, run, _ = await submit(http, process.url)
            for _ in range(3):
                waiting = await until(http, process.url, run["id"], {"waiting"})
                step = waiting["waiting_for"]["step"]
                answer = {"step": step}
                if step == "assistant/1/charge/1":
                    answer |= {"approved": False, "comment": "too dear"}
                url = f"{process.url}/runs/{run['id']}/approve"
                async with http.post(url, json=answer) as response:
                    assert response.status == 202, await response.text()
            ended = await until(http, process.url, run["id"])
    assert ended["state"] == "succeeded", ended
    refused = "step assistant/1/charge/1 was refused by its caller: too dear"
    assert ended["reply"]["output"] == f"a charge, {refused}, c charge"
    assert len(tool.effects()) == 2


async def test_a_killed_replicas_loop_goes_on_behind_its_last_step_and_no_tool_acts_twice(http, tmp_path):
    model = Model()
    with counting_tool(tmp_path / "tool") as tool, ExitStack() as processes:
        async with scripted(model) as (_, model_url):
            variables = variables_of(tool, model_url, runs_config(tmp_path / "runs.sqlite"))

            async def start():
                process = processes.enter_context(stage_process("orchestrate", tmp_path, **variables))
                await wait_ready(http, process.url)
                return process

            # Lost when two tools have acted, and neither answer is recorded.
            tool.hold("charge")
            process = await start()
            status, run, _ = await submit(http, process.url)
            assert status == 202
            await wait_until(lambda: len(tool.effects()) == 2, 60)
            kill(process)
            # Lost again while the model writes its last answer.
            model.waits_in_turn = 3
            tool.let_go("charge")
            process = await start()
            await wait_until(lambda: 3 in model.asked, 60)
            kill(process)
            model.waits_in_turn = None
            process = await start()
            ended = await until(http, process.url, run["id"])
    assert ended["state"] == "succeeded", ended
    assert ended["reply"]["output"] == "a charge, b charge, c charge"
    assert {name: count for (_, name), count in tool.effects().items()} == {"a": 1, "b": 1, "c": 1}
    keys = {key for _, key, _ in tool.lines("calls")}
    assert tool.calls()["charge"] == 5, "both calls of the first turn were made again"
    assert len(keys) == 3, "each with its own key"
    assert model.asked == [1, 2, 3, 3], "a turn that is recorded is not asked for again"
    # The calls of a turn are made side by side, and recorded as they end.
    names = sorted(step["name"] for step in ended["steps"])
    assert names == [
        "assistant/1", "assistant/1/charge/0", "assistant/1/charge/1", "assistant/2", "assistant/2/charge/0",
        "assistant/3",
    ]  # fmt: skip
