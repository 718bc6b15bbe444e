"""Options of the agent file become vLLM's command line, and vLLM's own parser judges them."""

from pathlib import Path

import pytest

from functions.engines.vllm import option_schema, options

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


@pytest.fixture(scope="module")
def asked():
    """How often vLLM had to be asked."""
    return []


@pytest.fixture
def validate(asked, tmp_path_factory):
    """`options.validate` with one cache folder for all tests here."""
    folder = tmp_path_factory.getbasetemp() / "vllm-options"

    def ask(args, **more):
        found = options.validate(args, cache_dir=folder, asking=lambda: asked.append(1), **more)
        return {problem.option: str(problem) for problem in found}

    return ask


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"max-model-lenn": 5}, "max-model-lenn = 5: {release} has no such option; nearest is max-model-len"),
        ({"max-model-len": "many"}, 'max-model-len = "many": must be a whole number, or one such as 8k'),
        ({"tensor-parallel-size": 1.5}, "tensor-parallel-size = 1.5: must be a whole number"),
        ({"gpu-memory-utilization": "most"}, 'gpu-memory-utilization = "most": must be a number'),
        ({"dtype": "float99"}, 'dtype = "float99": must be one of auto, '),
        ({"enforce-eager": "yes"}, 'enforce-eager = "yes": must be true or false'),
        ({"seed": True}, "seed = true: must be a whole number"),
        ({"port": 1}, "port = 1: is set by the replica; leave it out"),
        ({"-max-model-len": 1}, "-max-model-len = 1: must be written without dashes in front"),
    ],
)
def test_a_bad_option_is_named_with_its_value_and_what_would_be_right(validate, args, says):
    (problem,) = validate(args).values()
    assert problem.startswith(says.format(release=option_schema.installed_release()))


@pytest.mark.vllm
def test_good_options_have_no_problems_and_too_few_sequences_are_one(validate):
    good = {
        "max-model-len": "8k",
        "max_num_batched_tokens": 4096,
        "dtype": "bfloat16",
        "quantization": "fp8",
        "tensor-parallel-size": 2,
        "max-num-seqs": 8,
        "enable-prefix-caching": False,
        "gpu-memory-utilization": 0.5,
        "compilation-config.mode": 3,
        "hf-overrides": '{"a": 1}',
        "chat-template": None,
    }
    assert validate(good, container_concurrency=8) == {}
    (problem,) = validate(good, container_concurrency=9).values()
    assert problem.startswith("max-num-seqs = 8: is below containerConcurrency = 9")


@pytest.mark.vllm
def test_vllm_is_asked_once(validate, asked):
    validate({"max-model-len": 1})
    validate({"nonsense": 1})
    assert len(asked) <= 1


def test_a_release_that_is_not_there_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(option_schema, "installed_release", lambda: None)
    with pytest.raises(option_schema.ValidationUnavailableError, match="install pilotlight"):
        options.validate({"a": 1}, cache_dir=tmp_path)
