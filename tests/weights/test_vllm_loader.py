"""`--load-format pilotlight` in a real vLLM gives the tokens that vLLM's own loader gives."""

import json
import subprocess
import sys
import textwrap

import pytest

import weights

pytestmark = pytest.mark.vllm

GENERATE = textwrap.dedent(
    """
    import gc, json, sys
    if __name__ == "__main__":
        from vllm import LLM, SamplingParams
        from vllm.distributed import cleanup_dist_env_and_memory
        asked = ["Hello, how are you today?", "My order did not arrive"]
        for options in json.loads(sys.argv[1]):
            llm = LLM(max_model_len=256, enforce_eager=True, **options)
            found = llm.generate(asked, SamplingParams(temperature=0, max_tokens=16))
            print(json.dumps([list(one.outputs[0].token_ids) for one in found]), flush=True)
            llm.llm_engine.engine_core.shutdown()
            del llm, found
            cleanup_dist_env_and_memory()
    """
)


def generate(*options):
    """One model after the other with these options, in one process: importing vLLM takes the longest."""
    return subprocess.run(
        [sys.executable, "-c", GENERATE, json.dumps(options)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name, value in {
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.timeout(900)
def test_streamed_and_mapped_weights_give_vllms_own_tokens_and_a_wrong_option_is_named(
    aws, environment, made_model, tmp_path
):
    uri = aws.upload(made_model.path, "vllm-loader", "m")
    pulled = weights.pull_blocking(uri, cache_dir=tmp_path, with_weights=False)
    pulled.release()
    ours = {"model": str(pulled.path), "load_format": "pilotlight"}
    wrong = {**ours, "model_loader_extra_config": {"cachedir": "/x"}}
    ended = generate({"model": str(made_model.path)}, ours, ours, wrong)
    assert ended.returncode != 0
    assert "model_loader_extra_config: 'cachedir', must be one of uri, cache_dir" in ended.stderr
    expected, streamed, cached = [
        json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[[")
    ]
    assert streamed == expected
    assert cached == expected
