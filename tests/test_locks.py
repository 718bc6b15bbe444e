"""The images' locks: every package with its hashes, and all that the project itself needs."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "controller": [],
    "triggers": ["triggers", "otel"],
    "functions-gpu": ["gpu", "onnx", "otel", "runs", "mcp"],
    "functions-cpu": ["cpu", "onnx", "otel", "runs", "mcp"],
}
PYTHONS = [
    {**default_environment(), "python_version": version, "sys_platform": "linux"}
    for version in ("3.11", "3.12", "3.13")
]
PACKAGE = re.compile(
    r"^([A-Za-z0-9._-]+)==(\S+)(?: ; .*)? \\$((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?$)+)", re.MULTILINE
)
FOREIGN = re.compile(r"://|@ |--index|--find-links|--extra")


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    rest = PACKAGE.sub("", text)
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert FOREIGN.search(text) is None, "a lock names no index: it is the user's"
    return {canonicalize_name(found[1]): found[2] for found in PACKAGE.finditer(text)}


def needed(extras: list[str]) -> list[Requirement]:
    listed = [*PROJECT["dependencies"]]
    for extra in extras:
        listed += PROJECT["optional-dependencies"][extra]
    found = map(Requirement, listed)
    return [one for one in found if one.marker is None or any(map(one.marker.evaluate, PYTHONS))]


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_has_every_package_that_the_project_needs_in_a_version_that_it_accepts(name):
    versions = locked(name)
    for requirement in needed(EXTRAS[name]):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_the_controller_is_locked_at_the_versions_that_the_tests_run_with():
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    known = {canonicalize_name(name): version for name, version in pinned.items()}
    different = {
        name: (version, known[name])
        for name, version in locked("controller").items()
        if name in known and version != known[name]
    }
    assert different == {}


def test_the_image_installs_from_the_locks_alone():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"^ *[^#\n]*?bin/pip (.*?install .*?)(?:&&|;|$)", text, re.MULTILINE)
    locks = []
    for command in installs:
        if "--no-index" not in command:
            assert "--require-hashes --no-deps" in command
            locks += re.findall(r"-r \"?(locks/\S+?)\"?\s*$", command)
    assert len(locks) == len(installs) - 1, "the project's own wheel, from this build"
    assert {name.replace("${ENGINE}", "gpu") for name in locks} == {
        f"locks/{name}.txt" for name in ("build", "controller", "functions-gpu", "torch-cpu", "triggers")
    }
    assert set(locked("build")) == {"setuptools"}, "builds the project without downloading anything"


def test_the_cpu_image_takes_the_torch_that_the_tests_run_with():
    (torch,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert locked("torch-cpu") == {"torch": torch}
    versions = locked("functions-cpu")
    for requirement in map(Requirement, importlib.metadata.requires("torch") or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert canonicalize_name(requirement.name) in versions, (
                "--no-deps brings nothing that is not locked"
            )
