"""Options of the agent file become vLLM's command line, and are checked against vLLM's own parser."""

import json
import subprocess
import sys
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
        ({"lora-modules": ["a=b", "c=d"]}, ['--lora-modules=["a=b", "c=d"]']),
        ({"hf-overrides": {"a": [1]}}, ['--hf-overrides={"a": [1]}']),
    ],
)
def test_each_type_of_value_has_its_form_on_the_command_line(args, argv):
    assert options.to_argv(args) == argv


@pytest.mark.parametrize("key", ["port", "uds", "model", "served_model_name", "api-server-count"])
def test_an_option_that_the_replica_sets_is_refused(key):
    with pytest.raises(ValueError, match=f"{key}: is set by the replica"):
        options.command_line({key: 1}, model=MODEL, name="m")


def test_the_kv_cache_on_a_cpu_has_room_for_max_num_seqs(made_model):
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


def test_a_kv_cache_sized_by_the_user_or_on_a_gpu_is_left_alone(made_model):
    assert options.defaults({"kv_cache_memory_bytes": 1 << 30}, made_model.path, "cpu") == {}
    assert options.defaults({}, made_model.path, "cuda") == {}


@pytest.fixture(scope="module")
def asked():
    """One entry for each time that vLLM's parser was run."""
    return []


@pytest.fixture
def validate(asked, tmp_path_factory):
    """`options.validate` with one cache folder for all tests of this module."""
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
        ({"seed": {"a": 1}}, 'seed = {"a": 1}: must be a whole number'),
        ({"seed": [1]}, "seed = [1]: must be one value, a whole number"),
        ({"tokenizer": {"a": 1}}, 'tokenizer = {"a": 1}: must be a text'),
        ({"dtype": ["auto"]}, 'dtype = ["auto"]: must be one value, one of auto, '),
        ({"served-model-name": ["a", "b"]}, 'served-model-name = ["a", "b"]: is set by the replica'),
        ({"port": 1}, "port = 1: is set by the replica; leave it out"),
        ({"-max-model-len": 1}, "-max-model-len = 1: must be written without leading dashes"),
    ],
)
def test_a_bad_option_is_reported_with_its_value_and_what_would_be_right(validate, args, says):
    (problem,) = validate(args).values()
    assert problem.startswith(says.replace("{release}", option_schema.installed_release()))


@pytest.mark.vllm
def test_good_options_pass_and_too_few_sequences_are_reported(validate):
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
        "allowed-origins": ["https://a.example"],
        "override-generation-config": {"top_p": 0.5},
        "lora-modules": ["a=b", {"name": "c", "path": "d"}],
        "cudagraph-capture-sizes": [1, 2],
    }
    assert validate(good, container_concurrency=8) == {}
    (problem,) = validate(good, container_concurrency=9).values()
    assert problem.startswith("max-num-seqs = 8: is below containerConcurrency = 9")


PARSED = """
import json, sys
from functions.engines.vllm.vllm_internals import command_line
args = command_line.parse(sys.argv[1:])
print(json.dumps({name: getattr(args, name) for name in json.load(sys.stdin)}, default=str))
"""


@pytest.mark.vllm
def test_vllm_reads_lists_and_mappings_as_they_are_meant():
    args = {
        "allowed-origins": ["https://a.example", "https://b.example"],
        "override-generation-config": {"top_p": 0.5},
        "cudagraph-capture-sizes": [1, 2],
        "logits-processors": ["a.B"],
        "middleware": ["a.b", "c.d"],
        "allowed-media-domains": [],
    }
    argv = options.command_line(args, model=MODEL, name="m")
    names = [name.replace("-", "_") for name in args]
    done = subprocess.run(
        [sys.executable, "-c", PARSED, *argv, "--uds", "/nowhere"],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.strip().rpartition("\n")[2]) == {
        **dict(zip(names, args.values(), strict=True)),
        "allowed_media_domains": None,
    }


@pytest.mark.vllm
def test_vllm_is_asked_once(validate, asked):
    validate({"max-model-len": 1})
    validate({"nonsense": 1})
    assert len(asked) <= 1


def test_a_missing_vllm_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(option_schema, "installed_release", lambda: None)
    with pytest.raises(option_schema.ValidationUnavailableError, match="install pilotlight"):
        options.validate({"a": 1}, cache_dir=tmp_path)
