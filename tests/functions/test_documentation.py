"""The documentation names everything that a user can set, see or measure."""

from pathlib import Path

import pytest

from functions.engines.onnx import OnnxArgs
from functions.engines.openai.options import OpenAIArgs
from functions.http.app import create_app
from functions.lifecycle import State
from functions.settings import FunctionSettings, StageAddress
from functions.stages.ingest import IngestConfig
from functions.stages.orchestrate import OrchestrateConfig, build
from functions.stages.postprocess import PostprocessConfig
from functions.timing import Phase

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "functions.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_every_variable_of_a_replica_is_described():
    class Environment(dict):
        def get(self, name, default=None):
            variables.add(name)
            return default

    variables = set()
    FunctionSettings.parse(Environment())
    assert len(variables) > 15
    missing = sorted(name for name in variables if name not in ARCHITECTURE)
    assert missing == []


@pytest.mark.parametrize("config", [IngestConfig, PostprocessConfig, OrchestrateConfig, OpenAIArgs, OnnxArgs])
def test_every_option_is_described(config):
    missing = [field.alias for field in config.model_fields.values() if f"`{field.alias}`" not in GUIDE]
    assert missing == []


def test_every_metric_is_described():
    settings = FunctionSettings(stages=(StageAddress("m", "generate", "http://m"),))
    registry = create_app(build(settings), settings).metrics.registry
    names = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in registry.collect()
    }
    assert len(names) > 8
    missing = sorted(name for name in names if name not in GUIDE)
    assert missing == []


def test_every_state_and_phase_is_described():
    missing = [word.value for word in (*State, *Phase) if f"`{word.value}`" not in GUIDE]
    assert missing == []
