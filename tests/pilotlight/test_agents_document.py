"""docs/agents.md: what it promises of the code and of the command line is there."""

import itertools
import re
from pathlib import Path

from typer.testing import CliRunner

import functions.sdk
from pilotlight.cli import app
from pilotlight.init.new_agent import TEMPLATES

TEXT = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()


def test_the_files_the_init_prints_are_those_that_it_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "desk"])
    assert done.exit_code == 0
    assert f"pilotlight init desk\ncd desk\n```\n```\n{done.output}```" in TEXT


def test_the_commands_are_there():
    runner = CliRunner()
    found = set(re.findall(r"^pilotlight ((?:weights|run) [a-z-]+|init|up|deploy)\b", TEXT, re.MULTILINE))
    assert len(found) >= 4
    for command in found:
        assert runner.invoke(app, [*command.split(), "--help"]).exit_code == 0, command


def test_every_name_that_is_imported_is_there_and_every_exported_one_is_told():
    for module, names in re.findall(r"from (functions\.sdk(?:\.testing)?) import ([\w, ]+)", TEXT):
        there = __import__(module, fromlist=["x"])
        assert all(hasattr(there, name.strip()) for name in names.split(","))
    told = [name for name in functions.sdk.__all__ if name not in {"Role", "Usage", "FinishReason"}]
    assert [name for name in told if not re.search(rf"\b{name}\b", TEXT)] == []


def test_the_snippets_of_stages_and_tools_can_be_served():
    snippets = re.findall(r"```python\n(from functions\.sdk import .*?)```", TEXT, re.DOTALL)
    served = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/agents.md", "exec"), served)
    assert (served["stock"].kind, served["route"].kind) == ("tool", "stage")
    article = served["stock"].parameters["properties"]["article"]
    assert article == {"type": "string", "description": "Its number, such as A-100."}


def test_the_dialogues_of_the_template_tell_the_results_that_its_tools_give():
    import json
    import runpy

    scope = runpy.run_path(str(TEMPLATES / "tool-agent" / "tools.py"))
    articles = next(scope["open_articles"]())
    calls = 0
    for line in (TEMPLATES / "tool-agent" / "dialogues.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        for asked, answered in itertools.pairwise(messages):
            for call in asked.get("tool_calls", ()):
                arguments = json.loads(call["function"]["arguments"])
                if call["function"]["name"] == "search":
                    assert json.loads(answered["content"]) == scope["search"](**arguments, articles=articles)
                elif "divides" not in answered["content"]:
                    assert json.loads(answered["content"]) == scope["calculator"](**arguments)
                calls += 1
    assert calls >= 6
