"""The command line answers at once, lists what it has, and says what was wrong in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilotlight import cli

PILOTLIGHT = [sys.executable, "-c", "from pilotlight.cli import main; main()"]


def run(*args: str, program: list[str] = PILOTLIGHT) -> subprocess.CompletedProcess[str]:
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [*program, *args], capture_output=True, text=True, timeout=60, env=wide, check=False
    )


def test_help_imports_nothing_of_what_the_commands_need():
    heavy = ("boto3", "lightkube", "fastapi", "aiohttp", "pydantic")
    report = f"import sys, pilotlight.cli as cli; cli.app(['--help'], standalone_mode=False); print([m for m in {heavy} if m in sys.modules])"
    answer = run(program=[sys.executable, "-c", report])
    assert answer.stdout.splitlines()[-1] == "[]", answer.stderr
    assert all(name in answer.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_says_of_a_command_what_the_command_says_of_itself(name):
    command = cli.load(name)
    told = command.help.splitlines()[0]
    if name == "controller":  # `python -m warmpool.controller` says it shorter
        assert told == "Keep warm pools on a cluster until SIGTERM."
    else:
        assert told == cli.COMMANDS[name].help


def test_a_misspelt_command_is_a_usage_error_with_the_right_one_named():
    answer = run("rendr")
    assert answer.returncode == 2
    assert "Did you mean 'render'?" in answer.stderr


def test_what_a_user_can_act_on_is_one_line_without_a_traceback(tmp_path: Path):
    given = run("render", "-f", str(tmp_path / "agent.yaml"))
    assert (given.returncode, given.stderr.count("\n")) == (2, 1)
    assert given.stderr.startswith(f"error: {tmp_path}/agent.yaml: cannot be read")

    happened = run("pool", "ls", "--kubeconfig", str(tmp_path / "none"))
    assert (happened.returncode, happened.stderr.count("\n")) == (1, 1)
    assert happened.stderr.startswith("error: kubeconfig ")


WITHOUT_EXTRAS = """
import sys
from pilotlight.cli import main

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("matplotlib", "moto", "numba"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
main()
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("render", "-f", "none.yaml"), "none.yaml: cannot be read"),
        (("demo",), "pip install 'pilotlight[demo]'"),
        (("experiment", "run", "none.yaml"), "pip install 'pilotlight[experiments]'"),
    ],
)
def test_errors_are_reported_without_the_packages_of_an_extra(arguments: tuple[str, ...], message: str):
    answer = run(*arguments, program=[sys.executable, "-c", WITHOUT_EXTRAS])
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_version_is_the_package_s():
    from importlib.metadata import version

    assert run("--version").stdout == f"pilotlight {version('pilotlight')}\n"
