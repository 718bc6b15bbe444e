"""A model's tensors are the same from every place that they can be loaded from."""

import hashlib
import json

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


def shards_of(made: MadeModel) -> dict[str, dict]:
    """The made model's tensors, in two halves."""
    from safetensors.torch import load_file

    tensors = load_file(made.path / "model.safetensors")
    names = sorted(tensors)
    middle = len(names) // 2
    return {
        "model-1.safetensors": {name: tensors[name] for name in names[:middle]},
        "model-2.safetensors": {name: tensors[name] for name in names[middle:]},
    }


@pytest.fixture
def with_strangers(made_model, tmp_path):
    """A model whose first shard also has a tensor that no line of the index names, and other bytes of one that
    the index puts into the second shard; beside them a file that the index does not name, and pickles.
    """
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "with-strangers"
    folder.mkdir()
    shards = shards_of(made_model)
    index = {name: file for file, tensors in shards.items() for name in tensors}
    last = max(shards["model-2.safetensors"])
    strangers = {
        last: shards["model-2.safetensors"][last] * 0,
        "model.stale.weight": shards["model-2.safetensors"][last],
    }
    for file, tensors in (shards | {"stray.safetensors": strangers}).items():
        save_file(tensors | (strangers if file == "model-1.safetensors" else {}), folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for name in ("training_args.bin", "optimizer.pt", "pytorch_model.bin"):
        (folder / name).write_bytes(b"not even a pickle")
    (folder / "config.json").write_text("{}")
    expected = {
        name: hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for tensors in shards.values()
        for name, data in tensors.items()
    }
    return folder, expected, last


def test_the_index_decides_which_tensors_are_loaded_from_everywhere(aws, with_strangers, tmp_path):
    folder, expected, last = with_strangers
    uri = aws.upload(folder, "strangers", "m")
    pulled = weights.pull_blocking(uri, cache_dir=tmp_path / "cache", with_weights=False)
    for model in (folder, uri, pulled.path, pulled.path):
        with open_model(model) as opened:
            delivered = [(entry, bytes(data)) for entry, data in opened]
        assert digests_of(delivered) == expected
        assert len(delivered) == len(expected)
    manifest = pulled.manifest
    assert manifest.ignored_tensors == (
        f"model-1.safetensors: {last}",
        "model-1.safetensors: model.stale.weight",
    )
    assert [skipped.path for skipped in manifest.skipped] == [
        "optimizer.pt",
        "pytorch_model.bin",
        "stray.safetensors",
        "training_args.bin",
    ]
    pulled.release()
