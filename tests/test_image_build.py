"""The images' Dockerfile: it passes its linter, and what it must not lose when it is changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
IMAGES = {"functions", "triggers", "controller"}


def stages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for step in STEPS:
        if step.startswith("FROM "):
            found[step.split(" AS ")[1]] = [step]
        elif found and not step.startswith("#"):
            list(found.values())[-1].append(step)
    return found


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    command = [hadolint, ROOT / "Dockerfile"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_not_kept_out_of_the_context_is_what_the_image_is_made_of():
    ignored = set((ROOT / ".dockerignore").read_text().split())
    copied = {
        word
        for step in STEPS
        if step.startswith("COPY ") and "--from" not in step
        for word in step.split()[1:-1]
    }
    assert copied & ignored == set()
    assert {".git", ".venv", "build"} <= ignored


def test_each_image_runs_as_a_number_and_starts_without_pip():
    for name in IMAGES:
        steps = stages()[name]
        assert steps[0].startswith("FROM python "), "no build tools below it"
        assert "USER 10001" in steps, "runAsNonRoot is checked against a number"
        assert not any("pip install" in step for step in steps)
        assert any(step.startswith('ENTRYPOINT ["python", "-m"') for step in steps)


def test_the_base_is_one_argument_for_every_stage():
    froms = [step.split()[1] for step in STEPS if step.startswith("FROM ")]
    known = {"${BASE}", *stages()}
    assert set(froms) <= known
    assert froms.count("${BASE}") == 1
    (base,) = re.findall(r"^ARG BASE=(\S+)$", "\n".join(STEPS), re.MULTILINE)
    assert base.startswith("debian:")


def test_a_bill_of_materials_has_each_locked_package_and_debians(tmp_path):
    """The script checks it by CycloneDX's own schema before it writes it."""
    venv = Path(sys.executable).parents[1]
    (tmp_path / "controller-debian.tsv").write_text("zlib1g\t1:1.3.1\tamd64\n")
    command = ["sh", ROOT / "scripts" / "sbom.sh", venv, tmp_path, "controller"]
    environment = {**os.environ, "DEBIAN_LISTS": str(tmp_path)}
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "controller.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["name"] == "pilotlight-controller"
    found = {component["purl"]: component for component in document["components"]}
    locked = re.findall(r"^(\S+)==(\S+)", (ROOT / "locks" / "controller.txt").read_text(), re.MULTILINE)
    assert len(found) == len(locked) + 1
    for name, version in locked:
        (source,) = found[f"pkg:pypi/{name}@{version}"]["externalReferences"]
        assert source["hashes"], "what is installed is known by its hash"
    assert found["pkg:deb/debian/zlib1g@1%3A1.3.1?arch=amd64"]["version"] == "1:1.3.1"


def test_the_proof_refuses_what_it_does_not_know():
    command = ["sh", ROOT / "scripts" / "prove_image.sh", "--targets", "all"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "'all' must be functions, controller or triggers" in done.stderr
