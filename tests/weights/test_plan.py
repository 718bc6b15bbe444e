"""A plan reads every byte once, every tensor whole, in the order of the decoder."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from weights.cache.eviction import EvictionCandidate, least_recently_used
from weights.manifest import SafetensorsHeader, TensorEntry
from weights.plan import decoder_order, extents, in_decoder_order, parts_of_file, parts_of_weights

NAMES = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.mlp.weight" for n in (0, 1, 10, 11, 2, 3)),
    "model.norm.weight",
]


def header(sizes: list[int], start: int = 50) -> SafetensorsHeader:
    tensors, end = [], start
    for number, size in enumerate(sizes):
        begin, end = end, end + size
        tensors.append(TensorEntry(f"{NAMES[number % len(NAMES)]}.{number}", "U8", (size,), begin, end))
    return SafetensorsHeader("f", start, tuple(tensors))


SIZES = st.lists(st.integers(0, 100), max_size=30)


@given(SIZES, st.integers(1, 40))
def test_parts_cover_a_file_without_gap_or_overlap(sizes, part_bytes):
    layout = header(sizes)
    parts = parts_of_weights(layout, part_bytes)
    assert [part.index for part in parts] == list(range(len(parts)))
    assert parts[0].begin == 0
    assert parts[-1].end == layout.data_start + sum(sizes)
    assert all(before.end == after.begin for before, after in itertools.pairwise(parts))
    assert all(0 < part.nbytes <= part_bytes for part in parts[1:])


@given(SIZES, st.integers(1, 40), st.integers(1, 200))
def test_every_tensor_is_whole_in_exactly_one_extent(sizes, part_bytes, extent_bytes):
    layout = header(sizes)
    found = extents(layout, parts_of_weights(layout, part_bytes), extent_bytes=extent_bytes)
    inside = [tensor for extent in found for tensor in extent.tensors]
    assert sorted(t.begin for t in inside) == [t.begin for t in layout.tensors if t.nbytes]
    for extent in found:
        assert all(extent.begin <= t.begin and t.end <= extent.begin + extent.nbytes for t in extent.tensors)
        largest = max(t.nbytes for t in extent.tensors)
        assert extent.nbytes <= max(extent_bytes, largest, part_bytes)


@given(SIZES, st.integers(1, 40), st.sets(st.integers(0, 29)))
def test_only_parts_with_wanted_tensors_are_read(sizes, part_bytes, wanted):
    layout = header(sizes)
    names = {t.name for number, t in enumerate(layout.tensors) if number in wanted and t.nbytes}
    parts = parts_of_weights(layout, part_bytes)
    found = extents(layout, parts, wanted=names.__contains__)
    assert {t.name for extent in found for t in extent.tensors} == names
    needed = {
        part.index
        for part in parts[1:]
        for t in layout.tensors
        if t.name in names and t.begin < part.end and part.begin < t.end
    }
    assert {part.index for extent in found for part in extent.parts} == needed


def test_extents_come_in_the_decoders_order_however_the_file_is_sorted():
    layout = header([100] * len(NAMES))
    found = in_decoder_order(extents(layout, parts_of_weights(layout, 100), extent_bytes=100))
    order = [extent.tensors[0].name.rsplit(".", 1)[0] for extent in found]
    assert order[0] == "model.embed_tokens.weight"
    assert [name.split(".")[2] for name in order if "layers" in name] == ["0", "1", "2", "3", "10", "11"]
    assert set(order[-2:]) == {"lm_head.weight", "model.norm.weight"}
    assert [decoder_order(e.tensors[0].name) for e in found] == sorted(
        decoder_order(e.tensors[0].name) for e in found
    )


@given(st.integers(0, 1000), st.integers(1, 300))
def test_a_plain_file_falls_into_equal_parts(size, part_bytes):
    parts = parts_of_file(size, part_bytes)
    assert sum(part.nbytes for part in parts) == size
    assert all(part.nbytes == part_bytes for part in parts[:-1])


CANDIDATES = st.lists(
    st.builds(EvictionCandidate, st.uuids().map(str), st.integers(0, 100), st.floats(0, 1e9), st.booleans()),
    max_size=20,
)


@given(CANDIDATES, st.integers(0, 1500))
def test_eviction_takes_the_longest_unused_and_never_what_is_in_use(candidates, quota):
    chosen = least_recently_used(candidates, quota)
    assert not any(candidate.in_use for candidate in chosen)
    left = [candidate for candidate in candidates if candidate not in chosen]
    size = sum(candidate.size for candidate in left)
    assert size <= quota or all(candidate.in_use for candidate in left)
    for gone in chosen:
        assert all(kept.in_use or kept.last_used >= gone.last_used for kept in left)
    if chosen:
        assert size + chosen[-1].size > quota, "no more than needed"
