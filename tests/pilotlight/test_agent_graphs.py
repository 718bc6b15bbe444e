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
