"""Graphs in agent files: what orchestrate is told of them, and which are refused, at which line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from functions.graph.settings import graph_of
from functions.orchestration.settings import parse_settings
from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent

ROUTER = """
apiVersion: pilotlight.dev/v1alpha1
kind: Agent
metadata: {name: router}
spec:
  image: registry.example/functions:1
  auth: {type: none}
  model: {uri: s3://models/small, name: small}
  stages:
    - {name: front, kind: orchestrate}
    - {name: ingest, kind: ingest}
    - name: classify
      kind: generate
      switch:
        key: stages.classify.text.trim()
        cases: {hard: [large]}
        default: [small]
    - {name: small, kind: generate, after: [classify], input: request.input}
    - name: large
      kind: generate
      after: [classify]
      input: request.input
      model: {uri: s3://models/large}
      fallback: {stage: spare}
      callSeconds: 30
    - {name: post, kind: postprocess, after: [small, large]}
    - {name: spare, kind: container, image: registry.example/spare:1}
    - {name: embed, kind: generate, engine: {type: onnx}, model: {uri: s3://models/embed}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text)
    return path


def environment(objects: list[dict[str, Any]], name: str) -> dict[str, str]:
    service = next(obj for obj in objects if obj["kind"] == "Service" and obj["metadata"]["name"] == name)
    env = service["spec"]["template"]["spec"]["containers"][0]["env"]
    return {entry["name"]: entry["value"] for entry in env}


def test_orchestrate_is_told_the_graph_and_each_model_its_own_files(tmp_path):
    objects = compile_agent(load_agent(write(tmp_path, ROUTER)))
    front = environment(objects, "front-router")
    stages = {stage["name"]: stage["kind"] for stage in json.loads(front["PILOTLIGHT_STAGES"])}
    assert list(stages) == ["ingest", "classify", "small", "large", "post", "spare", "embed"]
    graph = graph_of(stages, parse_settings(json.loads(front["PILOTLIGHT_GRAPH"])))
    assert [node.name for node in graph.nodes] == ["ingest", "classify", "small", "large", "post"]
    assert graph.by_name["post"].after == ("small", "large")
    assert graph.by_name["classify"].after == ("ingest",), "the one before it in the list"
    assert graph.by_name["large"].options.fallback.stage == "spare"
    models = {
        name: (env["PILOTLIGHT_MODEL_URI"], env["PILOTLIGHT_MODEL_NAME"])
        for name in ("ingest", "classify", "small", "large", "embed")
        if (env := environment(objects, f"{name}-router"))
    }
    assert models == {
        "ingest": ("s3://models/small", "small"),
        "classify": ("s3://models/small", "small"),
        "small": ("s3://models/small", "small"),
        "large": ("s3://models/large", "large"),
        "embed": ("s3://models/embed", "embed"),
    }


def test_stages_in_one_line_need_no_graph(tmp_path):
    agent = yaml.safe_load(ROUTER)
    agent["spec"]["stages"] = [
        {"name": "front", "kind": "orchestrate"},
        {"name": "ingest", "kind": "ingest"},
        {"name": "generate", "kind": "generate"},
    ]
    objects = compile_agent(load_agent(write(tmp_path, yaml.safe_dump(agent))))
    assert "PILOTLIGHT_GRAPH" not in environment(objects, "front-router")


def test_ingest_counts_with_the_tokenizer_of_the_model_that_follows_it(tmp_path):
    agent = yaml.safe_load(ROUTER)
    del agent["spec"]["model"]
    agent["spec"]["stages"] = [
        {"name": "front", "kind": "orchestrate"},
        {"name": "ingest", "kind": "ingest"},
        {"name": "generate", "kind": "generate", "model": {"uri": "./near", "name": "near"}},
    ]
    objects = compile_agent(load_agent(write(tmp_path, yaml.safe_dump(agent))))
    near = str(tmp_path / "near")
    assert environment(objects, "ingest-router")["PILOTLIGHT_MODEL_URI"] == near
    assert environment(objects, "generate-router")["PILOTLIGHT_MODEL_URI"] == near


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "after: [small, large]",
            "after: [small, lrage]",
            "26: spec.stages.5.after: there is no stage 'lrage'",
        ),
        (
            "after: [classify], input",
            "after: [post], input",
            "spec.stages.3.after: goes in a circle: small -> post",
        ),
        (
            "stages.classify.text.trim()",
            "stages.clasify.text",
            "15: spec.stages.2.switch.key: there is no stage",
        ),
        (
            "cases: {hard: [large]}",
            "cases: {hard: [post]}",
            "spec.stages.2.switch: 'post' must be a stage with after",
        ),
        (
            "fallback: {stage: spare}",
            "fallback: {stage: spar}",
            "24: spec.stages.4.fallback.stage = 'spar': must be",
        ),
        (
            "fallback: {stage: spare}",
            "fallback: {}",
            "spec.stages.4.fallback: must have either stage or text",
        ),
        ("callSeconds: 30", "callSeconds: 0", "spec.stages.4.callSeconds = 0: "),
        ("callSeconds: 30", "when: request.text", None),
        (
            "callSeconds: 30",
            "when: reqest.text == ''",
            "'reqest' is not known, must be one of request, stages",
        ),
        (
            "{type: onnx},",
            "{type: onnx}, after: [small],",
            "spec.stages.7.after: a model of engine onnx only embeds",
        ),
        (
            "kind: orchestrate}",
            "kind: orchestrate, when: 'true'}",
            "spec.stages.0.when is for the stages behind",
        ),
        (
            "kind: orchestrate}",
            "kind: orchestrate, after: [embed]}",
            "spec.stages.0.after: 'embed' is not in the graph",
        ),
        ("kind: orchestrate}", "kind: ingest}", "is for agents with a stage of kind orchestrate"),
        (
            "kind: postprocess,",
            "kind: postprocess, model: {uri: s3://models/b},",
            "model is for kinds generate and ingest",
        ),
    ],
)
def test_a_bad_graph_is_refused_with_its_line(tmp_path, old, new, message):
    assert old in ROUTER
    path = write(tmp_path, ROUTER.replace(old, new))
    if message is None:
        load_agent(path)  # whether an expression is true or false shows with its first request
        return
    with pytest.raises(AgentFileError) as raised:
        load_agent(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


HELPER = """
apiVersion: pilotlight.dev/v1alpha1
kind: Agent
metadata: {name: helper}
spec:
  image: registry.example/functions:1
  auth: {type: none}
  model: {uri: s3://models/small}
  stages:
    - {name: front, kind: orchestrate}
    - {name: ingest, kind: ingest}
    - name: assistant
      kind: agent
      agent:
        model: generate
        tools: [calculator, weather, github]
        system: You are brief.
        bounds: {steps: 5, seconds: 60, dollars: 0.01, prices: {prompt: 0.2, completion: 0.6}}
    - {name: generate, kind: generate, engine: {args: {enable-auto-tool-choice: true, tool-call-parser: hermes}}}
    - {name: post, kind: postprocess}
    - name: calculator
      kind: tool
      image: registry.example/calculator:1
      warmPool: {windows: [{name: day, cron: 0 8 * * *, duration: 8h, replicas: 1}]}
      tool:
        description: Evaluates arithmetic.
        parameters: {type: object, properties: {expression: {type: string}}, required: [expression]}
        timeoutSeconds: 20
    - name: weather
      kind: tool
      tool:
        url: https://weather.example/v1/now
        description: The weather of a town.
        headers: {Authorization: {secret: weather, key: token, prefix: "Bearer "}}
    - name: github
      kind: tool
      tool: {url: "https://mcp.example/mcp", mcp: {only: [search_issues]}}
"""


def test_orchestrate_is_told_its_agents_and_their_tools(tmp_path):
    agent = load_agent(write(tmp_path, HELPER))
    objects = compile_agent(agent)
    names = [obj["metadata"]["name"] for obj in objects if obj["kind"] == "Service"]
    assert names == ["front-helper", "ingest-helper", "generate-helper", "post-helper", "calculator-helper"]
    front = environment(objects, "front-helper")
    stages = {stage["name"]: stage["kind"] for stage in json.loads(front["PILOTLIGHT_STAGES"])}
    assert list(stages) == ["ingest", "generate", "post"]
    settings = parse_settings(json.loads(front["PILOTLIGHT_GRAPH"]))
    graph = graph_of(settings.kinds(stages), settings)
    assert [(node.name, node.kind) for node in graph.nodes] == [
        ("ingest", "ingest"),
        ("assistant", "agent"),
        ("post", "postprocess"),
    ]
    assert settings.agents["assistant"].bounds.steps == 5
    tools = settings.tools
    assert tools["calculator"].url == "http://calculator-helper.default.svc.cluster.local/"
    assert (tools["calculator"].service, tools["calculator"].timeout_seconds) == (True, 20)
    header = tools["weather"].headers["Authorization"]
    assert (header.file, header.prefix) == ("/var/run/pilotlight/tools/weather/token", "Bearer ")
    assert (tools["github"].type, tools["github"].only) == ("mcp", ("search_issues",))
    pod = next(obj for obj in objects if obj["metadata"]["name"] == "front-helper")["spec"]["template"][
        "spec"
    ]
    volume = next(volume for volume in pod["volumes"] if "tool" in volume["name"])
    assert volume["secret"]["secretName"] == "weather"
    assert [obj["metadata"]["name"] for obj in objects if obj["kind"] == "WarmPool"] == ["calculator-helper"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "enable-auto-tool-choice: true, tool-call-parser: hermes",
            "max-model-len: 512",
            "spec.stages.3.engine.args: must have enable-auto-tool-choice: true and tool-call-parser: NAME",
        ),
        (
            "model: generate\n",
            "model: ingest\n",
            "15: spec.stages.2.agent.model = 'ingest': must be a stage of kind",
        ),
        (
            "tools: [calculator,",
            "tools: [calculater,",
            "16: spec.stages.2.agent.tools: 'calculater' must be a stage",
        ),
        ("steps: 5", "steps: 0", "spec.stages.2.agent.bounds.steps = 0: "),
        (", prices: {prompt: 0.2, completion: 0.6}", "", "prices must be given with dollars"),
        (
            "kind: agent\n",
            "kind: agent\n      scaling: {max: 2}\n",
            "scaling is for stages that become a Service",
        ),
        (
            "kind: postprocess}",
            "kind: postprocess, tool: {url: 'http://x', description: y}}",
            "tool must be given with",
        ),
        ("        description: Evaluates arithmetic.\n", "", "tool.description is missing"),
        (
            "type: object, properties: {expression",
            "type: array, properties: {expression",
            "type = 'array', must be object",
        ),
        ("{type: string}}, required", "{type: strng}}, required", "parameters: "),
        ("      image: registry.example/calculator:1\n", "", "a stage of kind tool needs an image"),
        ("mcp: {only", "description: x, mcp: {only", "description comes from the MCP server"),
        ("url: https://weather", "url: ftp://weather", "tool.url"),
        ("url: https://weather", "url: https://user:word@weather", "headers takes credentials from a Secret"),
        ("headers: {Authorization:", "headers: {Idempotency-Key:", "is set by the call itself"),
        (
            "url: https://weather",
            "path: /x\n        url: https://weather",
            "path is for the stage's own Service",
        ),
        (
            "{name: front, kind: orchestrate}",
            "{name: front, kind: ingest}",
            "an agent runs in a stage of kind orchestrate",
        ),
        ("{secret: weather, key: token,", "{secret: Weather, key: token,", "headers.Authorization.secret"),
        (
            "kind: tool\n      image",
            "kind: tool\n      after: [post]\n      image",
            "after is for stages of the graph",
        ),
    ],
)
def test_a_bad_agent_or_tool_is_refused_with_its_line(tmp_path, old, new, message):
    assert old in HELPER
    path = write(tmp_path, HELPER.replace(old, new, 1))
    with pytest.raises(AgentFileError) as raised:
        load_agent(path)
    assert message in str(raised.value)
