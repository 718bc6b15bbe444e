"""The guide to cold starts names everything that a user can set or see there."""

from pathlib import Path

from functions.engines.vllm.warmth_endpoint import PATH
from functions.lifecycle import Warmth
from functions.stages.generate import GenerateConfig
from functions.timing import Phase

GUIDE = (Path(__file__).parents[2] / "docs" / "cold-starts.md").read_text()


def test_every_option_of_generate_is_described():
    assert [f.alias for f in GenerateConfig.model_fields.values() if f"`{f.alias}`" not in GUIDE] == []


def test_every_phase_rung_and_the_admin_path_are_described():
    assert [phase.value for phase in Phase if f"`{phase.value}`" not in GUIDE] == []
    assert [warmth.value for warmth in Warmth if warmth.value not in GUIDE] == []
    assert PATH in GUIDE
