"""What vLLM would refuse of `engine.args` is refused when the agent file is read."""

import sys
from pathlib import Path

import pytest
import yaml

from functions.engines.vllm import option_schema
from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent

EXAMPLE = Path(__file__).parents[2] / "examples" / "support" / "agent.yaml"


def _with_args(folder: Path, args: dict) -> Path:
    document = yaml.safe_load(EXAMPLE.read_text())
    stage = next(stage for stage in document["spec"]["stages"] if stage["kind"] == "generate")
    stage["engine"] = {"args": args}
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.mark.vllm
def test_a_misspelt_option_is_named_with_file_line_and_the_nearest_right_one(tmp_path):
    path = _with_args(tmp_path, {"seed": 0, "max-model-lenn": 5})
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "max-model-lenn" in text)
    with pytest.raises(AgentFileError) as error:
        load_agent(path, tell=lambda _: None)
    release = option_schema.installed_release()
    assert str(error.value).endswith(
        f"{path}:{line}: spec.stages.1.engine.args.max-model-lenn = 5: {release} has no such option; "
        "nearest is max-model-len"
    )


@pytest.mark.vllm
def test_render_and_deploy_refuse_it_before_anything_happens(cli, tmp_path):
    path = _with_args(tmp_path, {"dtype": "float99"})
    for command in ("render", "deploy"):
        refused = cli.run(command, "-f", str(path))
        assert refused.returncode == 2
        assert 'engine.args.dtype = "float99": must be one of auto, ' in refused.stderr
        assert refused.stdout == ""


def test_it_is_said_before_vllm_is_asked_and_what_it_does_not_answer_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("PILOTLIGHT_CACHE_DIR", str(tmp_path / "fresh"))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    told: list[str] = []
    load_agent(EXAMPLE, tell=told.append)
    reading, warning = told
    assert reading.startswith("Reading vLLM's options (once for each release")
    assert "engine.args is not checked: vLLM's parser did not answer" in warning


def test_without_vllm_it_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(option_schema, "installed_release", lambda: None)
    told: list[str] = []
    load_agent(_with_args(tmp_path, {"nonsense": 1}), tell=told.append)
    (line,) = told
    assert "spec.stages.1.engine.args is not checked: vLLM is not installed" in line
