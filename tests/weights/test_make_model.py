"""A made model is reproducible, of the size asked for, and readable by the usual libraries."""

import json

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from weights.llama_shape import VOCABULARY
from weights.make_model import make_model
from weights.sources.listing import inspect
from weights.sources.local import LocalSource


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    one, same, other = (
        make_model(tmp_path / name, size=2_000_000, seed=seed)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    files = sorted(path.name for path in one.path.iterdir())
    assert all((one.path / name).read_bytes() == (same.path / name).read_bytes() for name in files)
    assert (one.path / "model.safetensors").read_bytes() != (other.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("size", [2_000_000, 20_000_000, 90_000_000])
def test_the_size_is_about_the_one_asked_for(tmp_path, size):
    made = make_model(tmp_path / "m", size=size, shard_bytes=32 << 20)
    assert abs(made.weight_bytes - size) / size < 0.2
    assert sum((made.path / file).stat().st_size for file in made.files) >= made.weight_bytes
    assert inspect(LocalSource(made.path)).parameters == made.parameters


def test_safetensors_own_reader_agrees_with_the_index(tmp_path):
    made = make_model(tmp_path / "m", shard_bytes=2 << 20)
    index = json.loads((made.path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == made.weight_bytes
    for file in made.files:
        with safe_open(made.path / file, "np") as opened:
            assert {name for name, shard in index["weight_map"].items() if shard == file} == set(
                opened.keys()
            )


def test_the_tokenizer_turns_any_text_into_tokens_and_back(made_model):
    tokenizer = Tokenizer.from_file(str(made_model.path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCABULARY
    for text in ("Hello, how are you?", "naïve café 北京 🚀\n\ttabs", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_folder_that_is_not_empty_is_left_untouched(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="must be absent or empty"):
        make_model(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_size_that_is_too_small_says_which_would_do(tmp_path):
    with pytest.raises(ValueError, match=r"size = 10, must be at least \d+ bytes"):
        make_model(tmp_path / "m", size=10)
    assert not (tmp_path / "m").exists()
