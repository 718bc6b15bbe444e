"""docs/security.md: its agent files compile, its commands and options exist, its defaults are those of the code."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from functions.auth.jwt_settings import JwtSettings
from pilotlight import cli
from pilotlight.access_settings import INGRESS_NAMESPACES, OBSERVER_NAMESPACES
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent, compile_for_cluster

DOCUMENT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)]
COMMANDS = re.findall(r"^\$ pilotlight (.+)$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("spec", [block["spec"] for block in BLOCKS if "spec" in block])
def test_each_agent_file_compiles(tmp_path, spec):
    stages = [{"name": "chain", "kind": "orchestrate"}, {"name": "clean", "kind": "postprocess"}]
    head = {"apiVersion": "pilotlight.dev/v1alpha1", "kind": "Agent", "metadata": {"name": "support"}}
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump({**head, "spec": {"stages": stages, **spec}}))
    agent = load_agent(path)
    assert len(compile_agent(agent)) == 2
    assert len(compile_for_cluster(agent)) == 1


def test_the_role_is_for_the_secrets_that_are_written():
    (role,) = [block for block in BLOCKS if block.get("kind") == "Role"]
    names = [name for rule in role["rules"] for name in rule.get("resourceNames", ())]
    assert names == ["pilotlight-keys", "support-stage-token"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_options(command):
    words = shlex.split(command)
    path = [words[0], *([words[1]] if words[0] == "key" else [])]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [*path, "--help"]).output
    for word in words:
        assert not word.startswith("--") or word in shown, word


def test_every_option_of_create_and_field_of_jwt_is_described():
    shown = (
        CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, ["key", "create", "--help"]).output
    )
    options = set(re.findall(r"--[a-z-]+", shown)) - {
        "--help",
        "--secret",
        "--namespace",
        "--kubeconfig",
        "--json",
    }
    assert options
    assert [option for option in sorted(options) if f"`{option}`" not in DOCUMENT] == []
    fields = [field.alias for field in JwtSettings.model_fields.values()]
    assert [name for name in fields if f"`{name}`" not in DOCUMENT] == []


def test_the_namespaces_are_those_of_the_code():
    for name in (*INGRESS_NAMESPACES, *OBSERVER_NAMESPACES):
        assert f"`{name}`" in DOCUMENT


def test_each_row_of_the_threat_model_names_tests_that_exist():
    table = DOCUMENT[DOCUMENT.index("## Threat model") :]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| from")]
    shown = [re.findall(r"`([\w/]+\.py)`", row.rpartition("shown by")[2].rsplit("|", 2)[1]) for row in rows]
    assert len(rows) > 15
    assert [row for row, names in zip(rows, shown, strict=True) if not names] == []
    tests = Path(__file__).parents[1]
    assert [name for names in shown for name in names if not (tests / name).exists()] == []
