"""A durable run through a graph whose replica is killed amid a map: the same way again, no item's effect twice."""

import contextlib
import json

from tests.functions.run_servers import (
    counting_tool,
    get,
    kill,
    orchestrate_process,
    runs_config,
    submit,
    until,
)
from tests.functions.servers import wait_ready, wait_until

GRAPH = {
    "nodes": [
        {"name": "one", "switch": {"weights": {"two": 1, "three": 1}}},
        {"name": "two", "after": ["one"]},
        {"name": "three", "after": ["one"]},
        {
            "name": "four",
            "after": ["two", "three"],
            "map": {
                "items": '["a", "b", "c"].map(item, item + ":" + stages.one.text)',
                "concurrency": 3,
            },
        },
        {"name": "five", "when": "stages.four.items.size() == 3", "input": "stages.four.items"},
    ]
}


async def test_a_run_in_a_graph_goes_on_where_it_was_and_takes_the_same_way(http, tmp_path):
    config = runs_config(tmp_path / "runs.sqlite")
    with contextlib.ExitStack() as stack, counting_tool(tmp_path / "tool") as tool:

        def another():
            return stack.enter_context(
                orchestrate_process(tmp_path, tool, config, PILOTLIGHT_GRAPH=json.dumps(GRAPH))
            )

        process = another()
        await wait_ready(http, process.url)
        tool.hold("four", "after")
        runs = [(await submit(http, process.url, f"text{number}"))[1]["id"] for number in range(6)]
        await wait_until(lambda: sum(step == "four" for step, _ in tool.effects()) == 18, 60)
        kill(process)
        tool.let_go("four")
        process = another()
        await wait_ready(http, process.url)
        for number, run in enumerate(runs):
            ended = await until(http, process.url, run)
            assert ended["state"] == "succeeded", ended
            answer = json.dumps([f"{item}:text{number} one four" for item in "abc"]) + " five"
            assert ended["reply"]["output"] == answer
            names = [step["name"] for step in ended["steps"]]
            assert sorted(names[2:5]) == ["four/0", "four/1", "four/2"]
            assert names[0] == "one"
            assert names[5:] == ["five"]
        assert set(tool.effects().values()) == {1}, "none twice"
        calls = tool.calls()
        assert calls["two"] + calls["three"] == 6, "the switch chose once, and the same again"
        assert (await get(http, process.url, f"runs/{runs[0]}"))[1]["attempt"] == 2
