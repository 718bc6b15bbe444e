"""The records of decisions are numbered without holes, and the list has each of them."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "adr"
RECORDS = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


def test_records_are_numbered_without_holes_and_say_their_number():
    for number, path in enumerate(RECORDS, 1):
        assert path.name.startswith(f"{number:04d}-"), path.name
        assert path.read_text().startswith(f"# {number}. "), path.name


def test_the_list_has_every_record_by_its_title():
    listed = (FOLDER / "README.md").read_text()

    for path in RECORDS:
        title = path.read_text().splitlines()[0].removeprefix("# ")
        assert f"- [{title}]({path.name})" in listed


def test_links_to_records_lead_to_one():
    for path in (FOLDER.parents[1]).rglob("*.md"):
        if any(part.startswith(".") for part in path.parts):
            continue
        for name in re.findall(r"adr/([\w-]+\.md)", path.read_text()):
            assert (FOLDER / name).exists(), f"{path}: {name}"
