"""The guide to experiments: its file is a valid experiment, and its commands and figures exist."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from pilotlight.cli.experiment import app
from warmpool.experiments.experiment import parse_experiment

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "experiments.md").read_text()


def test_the_experiment_file_of_the_guide_is_valid():
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)

    experiment = parse_experiment(yaml.safe_load(text))

    assert experiment.spec.arms[0].name == "pool off"


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"^\$? ?pilotlight experiment .*", GUIDE, re.MULTILINE)))
)
def test_every_command_of_the_guide_exists_with_its_options(line):
    words = line.removeprefix("$ ").split()
    command = get_command(app).commands[words[2]]
    known = {option for parameter in command.params for option in parameter.opts}

    assert {word for word in words[3:] if word.startswith("--")} <= known


def test_every_objective_and_source_of_the_guide_is_an_option_of_recommend():
    known = {
        option for parameter in get_command(app).commands["recommend"].params for option in parameter.opts
    }
    tables = GUIDE.split("| objective |")[1].split("## ")[0] + GUIDE.split("| source |")[1].split("## ")[0]

    assert set(re.findall(r"`(--[a-z0-9-]+)", tables)) <= known


def test_files_that_the_guide_links_to_are_there():
    for link in re.findall(r"\]\(([^)#]+)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link


def test_what_a_spared_wait_costs_follows_from_the_table_of_the_guide():
    example = GUIDE.split("## A worked example")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^(pool off|always on) +(.*)$", example, re.MULTILINE))
    off, on = (
        (float(re.findall(r"[\d.]+(?=%)", row)[0]) / 100, float(row.split()[-1])) for row in rows.values()
    )
    spared, more = round(4259 * (off[0] - on[0])), on[1] - off[1]
    found = re.search(r"costs (\d+) cents \(([\d.]+) USD for ([\d,]+) of them", GUIDE)

    assert found is not None
    assert found.groups() == (f"{100 * more / spared:.0f}", f"{more:.2f}", f"{spared:,}")
