"""docs/graphs.md: its agent is what it says, on one machine and on a cluster, and is refused as it says."""

import re
from pathlib import Path

import pytest
import yaml

from functions.graph.conditions import Condition
from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent, compile_for_cluster
from pilotlight.graph_fields import GraphFields
from pilotlight.graph_picture.mermaid import to_mermaid
from pilotlight.graph_picture.of_agent import picture_of

GUIDE = (Path(__file__).parents[2] / "docs" / "graphs.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def agent_file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    text = blocks("yaml")[0]
    # vLLM's options are read from vLLM, which takes half a minute; a comment keeps the lines' numbers.
    path.write_text(re.sub(r"^ *engine: .*$", "#", text, flags=re.MULTILINE))
    (tmp_path / "triage.py").write_text(blocks("python")[0])
    return path


def test_the_picture_is_what_the_command_draws(agent_file):
    assert to_mermaid(picture_of(load_agent(agent_file))) == blocks("mermaid")[0]


def test_the_stage_in_python_decides_as_it_says(agent_file, monkeypatch):
    monkeypatch.syspath_prepend(agent_file.parent)
    from triage import triage  # made by the fixture

    assert triage("Where is my invoice? Can I pay later?").model_dump() == {
        "topic": "billing",
        "parts": ["Where is my invoice?", "Can I pay later?"],
    }
    assert triage("Hello").topic == "other"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("after: [expert, quick]", "after: [expert, quik]"),
        ("after: [triage]\n", "after: [shorten]\n"),
        ("stages.triage.data.parts", "stages.shorten.data.parts"),
        ("size(stages.expert", "size(stage.expert"),
        ("default: [quick]", "default: [shorten]"),
    ],
)
def test_each_refusal_is_as_written(agent_file, old, new):
    text = agent_file.read_text()
    assert old in text
    agent_file.write_text(text.replace(old, new, 1))
    with pytest.raises(AgentFileError) as raised:
        load_agent(agent_file)
    said = str(raised.value).replace(f"{agent_file.parent}/", "").splitlines()
    assert said[0] in blocks("console")[2].splitlines()


def test_every_field_is_described_and_every_expression_is_one():
    fields = [str(field.alias) for field in GraphFields.model_fields.values()]
    assert [name for name in fields if f"| `{name}` |" not in GUIDE] == []
    request = {"id": "1", "text": "x\n\ny", "input": "x", "metadata": {"language": "de"}, "parameters": {}}
    split = {"ran": True, "text": "a\n\nb", "output": "", "data": {}, "finish_reason": "", "items": []}
    given = {"request": request, "stages": {"split": split, "draft": split}}
    when, switch, items, more = blocks("yaml")[3].splitlines()
    assert Condition(yaml.safe_load(when)["when"]).value(given) is True
    assert Condition(yaml.safe_load(switch)["switch"]["key"]).value(given) == "short"
    assert Condition(yaml.safe_load(items)["map"]["items"]).value(given) == ["a", "b"]
    assert Condition(yaml.safe_load(more)["input"]).value(given).endswith("b\n\nMake it shorter.")


def test_on_a_cluster_each_model_is_a_service_with_an_account_that_orchestrate_alone_may_call(agent_file):
    text = agent_file.read_text().replace(
        "spec:\n", "spec:\n  auth: {type: none}\n  mesh: {type: istio}\n", 1
    )
    text = text.replace("uri: ./", "uri: s3://models/").replace(
        "      map:", "      warmPool: {keepAlive: 10m}\n      map:"
    )
    agent_file.write_text(text)
    agent = load_agent(agent_file)
    objects = [*compile_for_cluster(agent), *compile_agent(agent)]
    services = {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == "Service"}
    assert list(services) == ["front-desk", "triage-desk", "expert-desk", "quick-desk", "shorten-desk"]
    accounts = {name: obj["spec"]["template"]["spec"]["serviceAccountName"] for name, obj in services.items()}
    assert len(set(accounts.values())) == 5
    policies = {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == "AuthorizationPolicy"}
    for model in ("expert-desk", "quick-desk"):
        told = str(next(policy for name, policy in policies.items() if model in name))
        assert accounts["front-desk"] in told
        assert accounts["triage-desk"] not in told
    assert [obj["metadata"]["name"] for obj in objects if obj["kind"] == "WarmPool"] == ["expert-desk"]
    assert any(obj["kind"] == "NetworkPolicy" for obj in objects)
