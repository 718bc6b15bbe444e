"""Options of the agent file become vLLM's command line, and vLLM's own parser judges them."""

import json
from pathlib import Path

import pytest

from functions.engines.vllm import options

MODEL = Path("/models/m")


@pytest.mark.parametrize(
    ("args", "argv"),
    [
        ({"max-model-len": 1024}, ["--max-model-len=1024"]),
        ({"max_model_len": 1024}, ["--max-model-len=1024"]),
        ({"enforce-eager": True}, ["--enforce-eager"]),
        ({"enable-prefix-caching": False}, ["--no-enable-prefix-caching"]),
        ({"quantization": None}, []),
        ({"gpu-memory-utilization": 0.5}, ["--gpu-memory-utilization=0.5"]),
        ({"chat-template": "-x"}, ["--chat-template=-x"]),
        ({"lora-modules": ["a=b", "c=d"]}, ["--lora-modules", "a=b", "c=d"]),
        ({"hf-overrides": {"a": [1]}}, ['--hf-overrides={"a": [1]}']),
    ],
)
def test_each_kind_of_value_has_its_form(args, argv):
    assert options.to_argv(args) == argv


@pytest.mark.parametrize("key", ["port", "uds", "model", "served_model_name", "api-server-count"])
def test_what_the_replica_decides_is_not_the_users_to_set(key):
    with pytest.raises(ValueError, match=f"{key}: is set by the replica"):
        options.command_line({key: 1}, model=MODEL, name="m")


def test_the_cache_on_a_cpu_has_room_for_the_sequences_that_are_asked_for(made_model):
    per_token = options.kv_bytes_per_token(made_model.path)
    assert per_token == 2 * 2 * 4 * 2 * 64  # keys and values, 16 bits, layers, heads, head size
    wanted = options.defaults({"max-model-len": 8192, "max-num-seqs": 100}, made_model.path, "cpu")
    assert wanted == {"kv-cache-memory-bytes": 8192 * 100 * per_token}
    assert options.defaults({"max-model-len": 8}, made_model.path, "cpu") == {
        "kv-cache-memory-bytes": 64 << 20
    }
    assert options.defaults({"max-model-len": 1 << 20}, made_model.path, "cpu") == {
        "kv-cache-memory-bytes": 4 << 30
    }


def test_a_cache_that_the_user_sized_stays_so_and_a_gpus_is_vllms_business(made_model):
    assert options.defaults({"kv_cache_memory_bytes": 1 << 30}, made_model.path, "cpu") == {}
    assert options.defaults({}, made_model.path, "cuda") == {}


@pytest.mark.vllm
def test_vllms_parser_names_each_bad_option(tmp_path):
    bad = {"max-model-len": "many", "nonsense": 3, "dtype": "float99", "enforce-eager": True, "port": 1}
    problems = options.validate(bad, cache_dir=tmp_path)
    assert len(problems) == 4
    for key in ("max-model-len", "nonsense", "dtype", "port"):
        assert [line for line in problems if line.startswith(key)], problems
    # The verdict is kept: asking again costs no process.
    (kept,) = (tmp_path / "vllm-options").iterdir()
    kept.write_text(json.dumps(["kept"]))
    assert "kept" in options.validate(bad, cache_dir=tmp_path)


@pytest.mark.vllm
def test_good_options_have_no_problems_and_too_few_sequences_are_one(tmp_path):
    good = {
        "max-model-len": 1024,
        "dtype": "bfloat16",
        "quantization": "fp8",
        "tensor-parallel-size": 2,
        "max-num-seqs": 8,
        "enable-prefix-caching": False,
    }
    assert options.validate(good, container_concurrency=8, cache_dir=tmp_path) == ()
    (problem,) = options.validate(good, container_concurrency=9, cache_dir=tmp_path)
    assert problem.startswith("max-num-seqs = 8: is below containerConcurrency = 9")
