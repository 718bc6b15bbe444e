"""The architecture document names files that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def test_every_file_and_folder_that_the_trips_name_is_there():
    trips = TEXT.split("## Five trips through the code")[1].split("\n## ")[0]
    folders: list[Path] = [ROOT]
    missing = []
    for name in re.findall(r"`([a-z_/]+(?:\.py|/))`", trips):
        # A bare name is a file beside one that was named before it.
        places = [ROOT / name, *(folder / name for folder in folders)]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            missing.append(name)
        else:
            folders.append(found.parent)
    assert not missing


def test_the_tree_names_every_folder_of_the_packages():
    tree = TEXT.split("## The tree")[1].split("## ")[0]
    for package in ("pilotlight", "functions", "warmpool", "triggers", "knative", "weights", "transport"):
        assert f"\n{package}/" in tree
        for folder in (ROOT / package).iterdir():
            if folder.is_dir() and (folder / "__init__.py").exists():
                assert f"{folder.name}/" in tree, folder


def test_the_tree_names_nothing_that_is_not_there():
    tree = TEXT.split("```\npilotlight/")[1].split("\nbenchmarks/")[0]
    package = "pilotlight"
    for line in ("pilotlight/" + tree).splitlines():
        words = line.split()
        if not line.startswith(" "):
            package = words[0].removesuffix("/")
            continue
        for word in words:
            if not re.fullmatch(r"[a-z_]+(?:\.py|/)", word):
                break
            assert (ROOT / package / word).exists(), f"{package}/{word}"
