"""A model's tensors are the same from every place that they can be loaded from."""

import hashlib

import pytest

import weights
from tests.weights.conftest import digests_of, reference
from tests.weights.s3 import S3Server
from weights.loading.model import open_model
from weights.make_model import MadeModel


@pytest.fixture(scope="module")
def model_uri(s3: S3Server, made_model: MadeModel) -> str:
    return s3.upload(made_model.path, "loading", "tiny")


def test_streams_from_s3_without_a_cache(aws, made_model, model_uri):
    with open_model(model_uri) as model:
        assert digests_of(model) == reference(made_model.path)
    assert model.report().bytes_from_source >= made_model.weight_bytes
    assert model.report().bytes_from_cache == 0


def test_the_second_load_maps_what_the_first_one_wrote(aws, made_model, model_uri, tmp_path):
    with open_model(model_uri, cache_dir=tmp_path) as first:
        assert digests_of(first) == reference(made_model.path)
    with open_model(model_uri, cache_dir=tmp_path) as second:
        assert digests_of(second) == reference(made_model.path)
    assert second.report().bytes_from_source == 0
    assert first.report().cache_error is None


def test_a_mounted_folder_is_mapped(made_model):
    with open_model(made_model.path) as model:
        assert digests_of(model) == reference(made_model.path)


def test_tensors_do_not_change_while_they_are_referred_to(aws, made_model, model_uri):
    with open_model(model_uri, limit_bytes=2 << 20) as model:
        held = [(entry.name, data) for entry, data in model]
    assert {name: hashlib.sha256(data).hexdigest() for name, data in held} == reference(made_model.path)


def test_a_pulled_folder_without_weights_knows_where_they_are(aws, made_model, model_uri, tmp_path):
    pulled = weights.pull_blocking(model_uri, cache_dir=tmp_path, with_weights=False)
    assert not (pulled.path / "model.safetensors").exists()
    assert pulled.bytes_read < made_model.weight_bytes / 10
    for _ in range(2):
        with open_model(pulled.path) as model:
            assert digests_of(model) == reference(made_model.path)
    assert model.report().bytes_from_source == 0


def test_tensors_come_in_the_order_of_the_decoder(made_model):
    with open_model(made_model.path) as model:
        names = [entry.name for entry, _ in model]
    assert names[0] == "model.embed_tokens.weight"
    assert names[-1] == "model.norm.weight" or names[-1] == "lm_head.weight"
    layers = [int(name.split(".")[2]) for name in names if ".layers." in name]
    assert layers == sorted(layers)


def test_only_wanted_tensors_are_read(aws, model_uri):
    with open_model(model_uri, wanted=lambda name: ".layers.3." in name) as model:
        names = [entry.name for entry, _ in model]
    assert len(names) == 9
    assert all(".layers.3." in name for name in names)
