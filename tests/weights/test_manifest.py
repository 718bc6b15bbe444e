"""Files that must not be loaded are refused by name before an engine reads a byte of them."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights.errors import RefusedError
from weights.index import parse_index
from weights.manifest import FileEntry, Manifest, SkippedFile, from_json, to_json
from weights.safetensors_header import DTYPE_BITS, MAX_HEADER_BYTES, header_length, parse_header


def encoded(content: object, data: int = 0) -> tuple[bytes, int]:
    """A file's beginning with this header, and its size with `data` bytes of tensors."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + data


def tensor(begin: int, end: int, dtype: str = "U8", shape: list | None = None) -> dict:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_a_right_header_gives_tensors_in_the_order_of_their_bytes():
    head, size = encoded(
        {"b": tensor(4, 12, "F32", [2]), "a": tensor(0, 4, "F16", [2, 1]), "__metadata__": {}}, 12
    )
    header = parse_header("m.safetensors", head, size)
    assert [(t.name, t.dtype, t.shape, t.nbytes) for t in header.tensors] == [
        ("a", "F16", (2, 1), 4),
        ("b", "F32", (2,), 8),
    ]
    assert header.tensors[0].begin == header.data_start


@pytest.mark.parametrize(
    ("content", "data", "words"),
    [
        (b"{", 0, "is not JSON"),
        (b"[1]", 0, "is not a JSON object"),
        (b'{"a":1,"a":1}', 0, "names 'a' twice"),
        ({"a": 1}, 0, "must have exactly dtype, shape and data_offsets"),
        ({"a": tensor(0, 4) | {"extra": 1}}, 4, "must have exactly"),
        ({"a": tensor(0, 4, "PICKLE")}, 4, "dtype = 'PICKLE', must be one of"),
        ({"a": tensor(0, 4, shape=[-4])}, 4, "must be a list of whole numbers"),
        ({"a": tensor(0, 1, shape=[True])}, 1, "must be a list of whole numbers"),
        ({"a": tensor(0, 4, shape=[2.0, 2])}, 4, "must be a list of whole numbers"),
        ({"a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}}, 4, "must rise"),
        ({"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}}, 4, "must be two whole numbers"),
        ({"a": tensor(0, 400)}, 4, "must rise and end by 4"),
        ({"a": tensor(0, 4, "F32", [2])}, 4, "takes 8 bytes and data_offsets give 4"),
        ({"a": tensor(0, 3), "b": tensor(2, 4)}, 4, "tensor 'b' overlaps"),
        ({"a": tensor(0, 1), "b": tensor(2, 4)}, 4, "tensor 'b' leaves a gap"),
        ({"a": tensor(1, 4)}, 4, "tensor 'a' leaves a gap"),
        ({"a": tensor(0, 3)}, 4, "its tensors end at byte"),
    ],
)
def test_a_wrong_header_is_refused_with_file_and_reason(content, data, words):
    head, size = encoded(content, data)
    with pytest.raises(RefusedError, match=words) as caught:
        parse_header("model.safetensors", head, size)
    assert caught.value.file == "model.safetensors"


def test_a_header_that_claims_too_much_is_refused_before_it_is_read():
    with pytest.raises(RefusedError, match=f"must be at most {MAX_HEADER_BYTES}"):
        header_length("m", struct.pack("<Q", MAX_HEADER_BYTES + 1), 1 << 40)
    with pytest.raises(RefusedError, match="the file has only 100"):
        header_length("m", struct.pack("<Q", 93), 100)
    with pytest.raises(RefusedError, match="at least 8"):
        header_length("m", b"\0", 1)


def test_deep_nesting_is_refused_and_does_not_exhaust_the_stack():
    head, size = encoded(b"[" * 100_000)
    with pytest.raises(RefusedError, match="not JSON"):
        parse_header("m", head, size)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_bytes_do_anything_but_parse_or_be_refused(data, extra):
    try:
        header = parse_header("m", data, len(data) + extra)
    except RefusedError:
        return
    assert all(0 <= t.begin <= t.end <= len(data) + extra for t in header.tensors)


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.integers(0, 9).map(lambda n: n * 8)), max_size=8
    )
)
def test_every_layout_without_gaps_is_accepted(kinds):
    content, end = {}, 0
    for number, (dtype, count) in enumerate(kinds):
        begin, end = end, end + count * DTYPE_BITS[dtype] // 8
        content[f"t{number}"] = {"dtype": dtype, "shape": [count], "data_offsets": [begin, end]}
    head, size = encoded(content, end)
    assert len(parse_header("m", head, size).tensors) == len(kinds)


@pytest.mark.parametrize(
    "path",
    ["../a.safetensors", "/a.safetensors", "a/../../b.safetensors", "a\\b.safetensors", "./a.safetensors"],
)
def test_an_index_does_not_climb_out_of_its_folder(path):
    with pytest.raises(RefusedError, match="plain path inside"):
        parse_index(json.dumps({"weight_map": {"t": path}}).encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x", "is not JSON"),
        (b"[]", "must have a weight_map"),
        (b'{"weight_map": {"t": 1}}', "must have a weight_map"),
        (b'{"weight_map": {"t": "a.bin"}}', "must name safetensors files only"),
        (b'{"weight_map": {"t": "a.safetensors", "t": "b.safetensors"}}', "names 't' twice"),
    ],
)
def test_a_wrong_index_is_refused(content, words):
    with pytest.raises(RefusedError, match=words):
        parse_index(content)


def test_a_manifest_survives_json_and_nothing_else_does():
    manifest = Manifest(
        "s3://b/p", (FileEntry("a.json", 3, "e", "0" * 64),), (), (SkippedFile("x.md", "documentation"),)
    )
    assert from_json(json.loads(json.dumps(to_json(manifest)))) == manifest
    for wrong in ({}, {"files": 1}, {"uri": "u", "skipped": [], "files": [{"path": "a"}]}):
        with pytest.raises(ValueError, match="not a manifest"):
            from_json(wrong)
