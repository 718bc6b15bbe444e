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
    import json, sys
    if __name__ == "__main__":
        from vllm import LLM, SamplingParams
        options = json.loads(sys.argv[1])
        llm = LLM(max_model_len=256, enforce_eager=True, **options)
        asked = ["Hello, how are you today?", "My order did not arrive"]
        found = llm.generate(asked, SamplingParams(temperature=0, max_tokens=16))
        print(json.dumps([list(one.outputs[0].token_ids) for one in found]))
    """
)


def tokens(**options):
    ended = subprocess.run(
        [sys.executable, "-c", GENERATE, json.dumps(options)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture
def environment(monkeypatch):
    for name, value in {
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.timeout(900)
def test_streamed_and_mapped_weights_give_the_tokens_of_vllms_own_loader(
    aws, environment, made_model, tmp_path
):
    uri = aws.upload(made_model.path, "vllm-loader", "m")
    expected = tokens(model=str(made_model.path))
    pulled = weights.pull_blocking(uri, cache_dir=tmp_path, with_weights=False)
    pulled.release()
    assert tokens(model=str(pulled.path), load_format="pilotlight") == expected, "streamed"
    assert tokens(model=str(pulled.path), load_format="pilotlight") == expected, "from the cache"


@pytest.mark.timeout(300)
def test_an_option_that_does_not_exist_is_named(environment, made_model):
    ended = subprocess.run(
        [
            sys.executable, "-c", GENERATE,
            json.dumps({
                "model": str(made_model.path), "load_format": "pilotlight",
                "model_loader_extra_config": {"cachedir": "/x"},
            }),
        ],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert "model_loader_extra_config: 'cachedir', must be one of uri, cache_dir" in ended.stderr
