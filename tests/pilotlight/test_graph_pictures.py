"""`pilotlight graph`: what the pictures of an agent's graph say, and how they are written."""

import random
import re
from pathlib import Path

import pytest
import typer

from pilotlight.agent_reader import load_agent
from pilotlight.cli.graph import graph
from pilotlight.graph_picture.drawing import draw
from pilotlight.graph_picture.layout import Size, place
from pilotlight.graph_picture.mermaid import COLOURS, to_mermaid
from pilotlight.graph_picture.of_agent import picture_of
from pilotlight.stage_spec import Kind

EVERYTHING = r"""
apiVersion: pilotlight.dev/v1alpha1
kind: Agent
metadata: {name: everything}
spec:
  image: registry.example/functions:1
  model: {uri: s3://models/small, name: small}
  stages:
    - {name: front, kind: orchestrate, config: {runs: {store: sqlite, approve: [refund]}}}
    - name: end
      kind: ingest
      switch: {key: request.metadata.way, cases: {a: [one], b: [one, two]}}
    - {name: one, kind: generate, after: [end], fallback: {text: "$5 & <b>\"sorry\"</b> #quot; `x` [y] {z}"}}
    - {name: two, kind: generate, after: [end], map: {items: stages.end.text.split(" "), concurrency: 4}}
    - {name: split, kind: container, image: x/split:1, after: [one, two], switch: {weights: {three: 3, refund: 1}}}
    - {name: three, kind: generate, after: [split], model: {uri: s3://models/large/}, fallback: {stage: spare}}
    - name: refund
      kind: agent
      after: [split]
      when: request.metadata.refund == true
      otherwise: skip
      agent: {model: asked, tools: [shop]}
    - name: asked
      kind: generate
      engine: {type: openai, args: {base-url: "https://models.example/v1", model: m}}
    - {name: shop, kind: tool, tool: {url: "https://shop.example/refund?secret=1", description: Refunds.}}
    - {name: spare, kind: container, image: x/spare:1}
    - {name: embed, kind: generate, engine: {type: onnx}, model: {uri: s3://models/embed}}
"""


@pytest.fixture
def agent_file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(EVERYTHING)
    return path


def arrows(text: str) -> set[str]:
    """The arrows of Mermaid text by the names of the boxes."""
    names = {
        key: name.partition("<br/>")[0]
        for key, name in re.findall(r'^  (n\d+)\(?\["([^"]*)"', text, re.MULTILINE)
    }
    names = {key: name.partition(" ")[0] for key, name in names.items()}
    found = re.findall(r'^  (n\d+) (-\.?->)(?:\|"([^"]*)"\|)? (n\d+)$', text, re.MULTILINE)
    return {f"{names[one]} {line} {label} {names[other]}" for one, line, label, other in found}


def test_mermaid_has_every_way_of_a_request_and_every_call(agent_file):
    text = to_mermaid(picture_of(load_agent(agent_file)))
    assert text.startswith("---\ntitle: everything\n---\nflowchart TD\n")
    assert arrows(text) == {
        "request -->  end",
        "end --> a or b one",
        "end --> b two",
        "end --> none of them answer",
        "one -->  split",
        "two -->  split",
        "split --> 75 % three",
        "split --> 25 % refund",
        "split --> none of them answer",
        "three -->  answer",
        "refund -->  answer",
        "three -.-> if it fails spare",
        "refund -.-> asks asked",
        "refund -.-> calls shop",
    }
    assert "request<br/>to front-everything" in text
    assert "three #40;generate#41;<br/>model large" in text
    assert "for each of stages.end.text.split#40;#34; #34;#41;<br/>4 at once" in text
    assert "else skip<br/>at most 8 turns<br/>once a person approves, in a durable run" in text
    assert "if it fails: #39;$5 #38; #60;b#62;#34;sorry#34;#60;/b#62; #35;quot; #96;x#96;" in text
    assert "https://shop.example/refund" in text
    assert "secret=1" not in text, "what is in a query may be one"
    quotes = [line for line in text.splitlines() if line.count('"') % 2]
    assert not quotes


def test_every_kind_of_stage_has_colours():
    assert COLOURS.keys() >= {kind.value for kind in Kind if kind is not Kind.ORCHESTRATE}


def test_an_agent_without_orchestrate_is_its_stages(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(
        "apiVersion: pilotlight.dev/v1alpha1\nkind: Agent\nmetadata: {name: one}\n"
        "spec: {stages: [{name: a, kind: container, image: x}, {name: b, kind: container, image: x}]}\n"
    )
    assert arrows(to_mermaid(picture_of(load_agent(path)))) == {"request -->  a"}


def test_pictures_are_files_of_their_kind_and_the_same_each_time(agent_file):
    picture = picture_of(load_agent(agent_file))
    svg, png = draw(picture, "svg"), draw(picture, "png")
    assert svg.lstrip().startswith(b"<?xml")
    assert b"<svg" in svg
    assert png.startswith(b"\x89PNG")
    assert svg == draw(picture, "svg")


def test_the_command_writes_what_the_files_name_says(agent_file, tmp_path, capfdbinary):
    for name, head in (("g.svg", b"<?xml"), ("deep/g.PNG", b"\x89PNG"), ("g.mmd", b"---\ntitle")):
        graph(file=agent_file, output=tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)
    assert b"12 boxes, 14 arrows" in capfdbinary.readouterr().err
    graph(file=agent_file)
    assert capfdbinary.readouterr().out == (tmp_path / "g.mmd").read_bytes()
    (tmp_path / "file").touch()
    for given, message in (
        ({"output": tmp_path / "g.jpg"}, "must end with .mmd, .mermaid, .svg, .png, or --format"),
        ({"form": "pdf"}, "'pdf' must be one of mermaid, svg, png"),
        ({"output": tmp_path, "form": "svg"}, "is a folder, must be a file"),
        ({"output": tmp_path / "file" / "g.svg"}, "cannot be written"),
    ):
        with pytest.raises(typer.BadParameter, match=re.escape(message)):
            graph(file=agent_file, **given)


def test_boxes_never_overlap_and_arrows_go_down_between_their_borders():
    dice = random.Random(7)
    for _ in range(60):
        names = [f"n{at}" for at in range(dice.randint(1, 14))]
        sizes = {name: Size(dice.uniform(20, 300), dice.uniform(20, 90)) for name in names}
        ways = [(a, b) for at, a in enumerate(names) for b in names[at + 1 :] if dice.random() < 0.25]
        ways += [tuple(dice.sample(names, 2)) for _ in range(2) if len(names) > 1]  # some close a circle
        layout = place(sizes, ways, [1.0] * len(ways), bottom=names[-1] if len(names) > 1 else None)
        boxes = {
            name: (point.x - sizes[name].width / 2, point.y - sizes[name].height / 2)
            for name, point in layout.centres.items()
        }
        for one, (x, y) in boxes.items():
            assert x >= -0.01
            assert x + sizes[one].width <= layout.size.width + 0.01
            assert 0 <= y <= layout.size.height - sizes[one].height + 0.01
            for other, (left, top) in boxes.items():
                apart = (
                    x + sizes[one].width <= left + 0.01
                    or left + sizes[other].width <= x + 0.01
                    or y + sizes[one].height <= top
                    or top + sizes[other].height <= y
                )
                assert one == other or apart
        for (source, target), way in zip(ways, layout.ways, strict=True):
            assert way[0].x == pytest.approx(layout.centres[source].x)
            assert way[-1].x == pytest.approx(layout.centres[target].x)
            heights = [point.y for point in way]
            assert heights in (sorted(heights), sorted(heights, reverse=True))
            for point in way[1:-1]:
                touched = [n for n, (x, y) in boxes.items() if x < point.x < x + sizes[n].width
                           and y < point.y < y + sizes[n].height]  # fmt: skip
                assert not touched


def test_stages_that_wait_for_all_before_them_are_placed():
    names = [f"n{at}" for at in range(40)]
    ways = [(a, b) for at, a in enumerate(names) for b in names[at + 1 :]]
    layout = place({name: Size(50, 20) for name in names}, ways, [1.0] * len(ways), bottom=None)
    assert layout.size.height > 40 * 20
