"""The small pure parts of weights: sizes, retries, addresses, the order of the decoder, strict JSON."""

import json
from pathlib import Path

import pytest

from weights.errors import InvalidURIError
from weights.plan import decoder_order
from weights.sizes import format_size, parse_size
from weights.sources.address import S3Location, absolute_uri, parse_uri
from weights.sources.retry_policy import ReadRetryPolicy
from weights.strict_json import DuplicateKeyError, no_duplicate_keys


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("512 B", 512),
        ("2GB", 2_000_000_000),
        ("2gb", 2_000_000_000),
        ("1.5 kB", 1500),
        ("512MiB", 512 << 20),
        ("1TiB", 1 << 40),
        ("3g", 3_000_000_000),
    ],
)
def test_sizes_are_read_as_people_write_them(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "-1", "1e3", "2 XB", "GB", "1..5GB", "²", "9" * 5000])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="must be a number with a unit, such as 2GB or 512MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (2e9, "2.0 GB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes_are_printed_in_the_largest_unit_that_they_reach(count, expected):
    assert format_size(count) == expected


@pytest.mark.parametrize(
    ("failures", "jitter", "seconds"),
    [(1, 0.0, 0.025), (1, 1.0, 0.1), (2, 1.0, 0.2), (4, 1.0, 0.8), (20, 0.0, 1.25), (20, 1.0, 5.0)],
)
def test_waits_double_up_to_the_longest_and_vary_with_the_jitter(failures, jitter, seconds):
    assert ReadRetryPolicy(first_wait=0.1, longest_wait=5.0).wait(failures, jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://bucket/", S3Location("bucket", "")),
        ("s3://bucket/a/b/", S3Location("bucket", "a/b")),
        ("file:///models/a%20b", Path("/models/a b")),
        ("file://localhost/models", Path("/models")),
        ("/models/a", Path("/models/a")),
        ("./a", Path("a")),
        (Path("/models"), Path("/models")),
        ("~/a", Path.home() / "a"),
    ],
)
def test_addresses_have_three_forms(uri, expected):
    assert parse_uri(uri) == expected


@pytest.mark.parametrize(
    "uri", ["", "  ", "s3://", "s3:///a", "s3://a b/c", "gs://b/p", "file://host/share", "file://a"]
)
def test_other_addresses_are_refused_with_the_forms(uri):
    with pytest.raises(InvalidURIError, match="must be"):
        parse_uri(uri)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("./near", "/base/near"),
        ("near", "/base/near"),
        ("../near/./x", "/near/x"),
        ("/models/near", "/models/near"),
        ("~/near", str(Path.home() / "near")),
        ("s3://bucket/near", "s3://bucket/near"),
        ("file:///near", "file:///near"),
    ],
)
def test_relative_paths_become_absolute(uri, expected):
    assert absolute_uri(uri, Path("/base")) == expected


def test_the_decoder_uses_embeddings_then_layers_by_number_then_the_rest():
    names = [
        "lm_head.weight",
        "model.layers.10.mlp.weight",
        "model.norm.weight",
        "transformer.h.2.attn.weight",
        "model.embed_tokens.weight",
        "model.layers.9.mlp.weight",
        "transformer.wte.weight",
    ]
    assert sorted(names, key=decoder_order) == [
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "transformer.h.2.attn.weight",
        "model.layers.9.mlp.weight",
        "model.layers.10.mlp.weight",
        "lm_head.weight",
        "model.norm.weight",
    ]


def test_an_object_with_a_key_twice_is_an_error_that_names_the_key():
    def parse(text):
        return json.loads(text, object_pairs_hook=no_duplicate_keys)

    assert parse('{"a": 1, "b": {"a": 2}}') == {"a": 1, "b": {"a": 2}}
    with pytest.raises(DuplicateKeyError, match="b"):
        parse('{"a": {"b": 1, "c": 2, "b": 3}}')
