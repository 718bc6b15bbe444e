"""Stages and tools of an agent file that are Python modules beside it."""

import json
import os
import runpy
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.cli import app
from pilotlight.compile import compile_agent
from pilotlight.local_modules import on_this_machine

FILE = """apiVersion: pilotlight.dev/v1alpha1
kind: Agent
metadata: {name: desk}
spec:
  image: registry.example.com/desk:1
  stages:
    - {name: clean, kind: stage, module: "clean:clean"}
    - name: model
      kind: generate
      model: {name: m}
      engine: {type: openai, args: {base-url: "http://127.0.0.1:1/v1"}}
    - {name: add, kind: tool, module: "kb:add"}
    - {name: answer, kind: agent, agent: {model: model, tools: [add]}}
    - {name: orchestrate, kind: orchestrate}
"""
MODULE = '''
print("loading")
from functions.sdk import tool

@tool
def add(a: float, b: float) -> float:
    """Add two numbers.

    Args:
        a: The first.
    """
    return a + b
'''
CLEAN = """
from functions.sdk import stage

@stage
def clean(text: str) -> str:
    return text.strip()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "agent.yaml").write_text(FILE)
    (tmp_path / "kb.py").write_text(MODULE)
    (tmp_path / "clean.py").write_text(CLEAN)
    return tmp_path


def containers(objects):
    found = {}
    for obj in objects:
        if obj["kind"] == "Service":
            found[obj["metadata"]["name"]] = obj["spec"]["template"]["spec"]["containers"][0]
    return found


def test_a_module_becomes_a_service_and_the_model_is_told_what_its_docstring_says(folder):
    agent = load_agent(folder / "agent.yaml")
    found = containers(compile_agent(agent))
    assert found["clean-desk"]["args"] == ["stage", "clean:clean"]
    assert found["add-desk"]["command"] == ["python", "-m", "functions"]
    assert found["add-desk"]["args"] == ["tool", "kb:add"]
    assert str(folder) not in json.dumps(found), "a cluster has the modules in the image"
    graph = next(e for e in found["orchestrate-desk"]["env"] if e["name"] == "PILOTLIGHT_GRAPH")
    told = json.loads(graph["value"])["tools"]["add"]
    assert told["description"] == "Add two numbers."
    assert told["parameters"]["properties"]["a"] == {"type": "number", "description": "The first."}
    assert told["url"] == "http://add-desk.default.svc.cluster.local/"


def test_on_one_machine_replicas_find_the_folder_and_a_change_is_a_new_revision(folder):
    agent = load_agent(folder / "agent.yaml")

    def digest():
        objects = on_this_machine(compile_agent(agent), [agent])
        env = {e["name"]: e["value"] for e in containers(objects)["clean-desk"]["env"]}
        assert env["PILOTLIGHT_MODULE_PATH"] == str(folder)
        template = next(o for o in objects if o["metadata"]["name"] == "clean-desk")["spec"]["template"]
        return template["metadata"]["annotations"]["pilotlight.dev/modules"]

    before = digest()
    assert digest() == before
    os.utime(folder / "kb.py")
    assert digest() == before
    (folder / "kb.py").write_text(MODULE + "\n")
    assert digest() != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("kb:add", "kb:sub"),
            "agent.yaml:12: spec.stages.2.module: cannot be used: kb:sub: module kb has no 'sub'",
        ),
        (("kb:add", "nowhere:add"), "there is no module 'nowhere' in"),
        (("kb:add", "clean:clean"), "clean:clean is a stage, must be a tool"),
        (("kb:add", "kb"), "module = 'kb': must be MODULE:NAME, such as clean:clean"),
        ((', module: "clean:clean"', ""), "a stage of kind stage needs a module"),
        (("kind: orchestrate}", 'kind: orchestrate, module: "a:b"}'), "module is for kinds stage and tool"),
    ],
)
def test_what_is_wrong_with_a_module_is_said_with_its_line(folder, change, said):
    (folder / "agent.yaml").write_text(FILE.replace(*change))
    with pytest.raises(AgentFileError) as refused:
        load_agent(folder / "agent.yaml")
    assert said in str(refused.value)


def test_a_module_that_ends_the_process_does_not_end_the_command(folder):
    (folder / "kb.py").write_text("import os\nos._exit(3)\n")
    with pytest.raises(AgentFileError, match="ended the process"):
        load_agent(folder / "agent.yaml")


def test_a_description_in_the_file_is_enough_and_nothing_is_imported(folder):
    (folder / "kb.py").unlink()
    tool = '{name: add, kind: tool, module: "kb:add", tool: {description: "Adds."}}'
    (folder / "agent.yaml").write_text(FILE.replace('{name: add, kind: tool, module: "kb:add"}', tool))
    assert load_agent(folder / "agent.yaml").spec.stages[2].tool.description == "Adds."


def test_render_refuses_modules_without_an_image(folder):
    runner = CliRunner()
    done = runner.invoke(app, ["render", "-f", str(folder / "agent.yaml")])
    assert done.exit_code == 0, done.output
    assert len(list(yaml.safe_load_all(done.stdout))) == 4
    (folder / "agent.yaml").write_text(FILE.replace("  image: registry.example.com/desk:1\n", ""))
    done = runner.invoke(app, ["render", "-f", str(folder / "agent.yaml")])
    assert done.exit_code != 0
    assert "image is not set for clean, add" in str(done.exception or done.output)


def test_the_router_example_names_the_model_that_its_stage_chooses():
    example = Path(__file__).parents[2] / "examples" / "router"
    agent = load_agent(example / "agent.yaml")
    routes = {case for stage in agent.spec.stages if stage.switch for case in stage.switch.cases}
    scope = runpy.run_path(str(example / "route.py"))
    route = scope["route"]
    assert {route("Why is the sky blue?").model} == routes == {"large"}
    assert route("Hello").model == "small"
