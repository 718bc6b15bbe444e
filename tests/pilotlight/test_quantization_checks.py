"""`quantization` and `dtype` of an agent file against the checkpoint and the GPU, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pilotlight.agent import Agent
from pilotlight.agent_reader import load_agent
from pilotlight.cli.agents import app
from pilotlight.doctor.findings import Level, Unknown
from pilotlight.doctor.gather_model import read_models
from pilotlight.doctor.model_memory import ModelFacts
from pilotlight.doctor.quantization import family, needs_sixteen_bits, scheme_of
from pilotlight.doctor.quantization_checks import quantization
from tests.weights.s3 import s3_server
from weights.make_model import make_model
from weights.quantize.schemes import quantization_config

V100 = {
    "v100": {"memory": "16Gi", "computeCapability": 7.0, "nodeLabels": {"nvidia.com/gpu.product": ["V100"]}}
}
GPTQ = {"quant_method": "gptq", "bits": 4}
FP8 = quantization_config("fp8", 0)
INT8 = quantization_config("w8a8-int8", 0)


def write_agent(folder: Path, gpu: str, model: str = "s3://models/m", **args: Any) -> Path:
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "chat"},
        "spec": {
            "model": {"uri": model},
            "gpu": {"type": gpu},
            "gpuTypes": V100,
            "stages": [{"name": "generate", "kind": "generate", "engine": {"type": "vllm", "args": args}}],
        },
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def agent(*arguments: Any, **args: Any) -> Agent:
    return load_agent(write_agent(*arguments, **args))


@pytest.mark.parametrize(
    ("gpu", "checkpoint", "args", "expected"),
    [
        ("nvidia-l4", INT8, {}, (Level.OK, "compressed-tensors w8a8 int", None)),
        ("nvidia-l4", FP8, {"quantization": "compressed-tensors"}, (Level.OK, "w8a8 float", None)),
        ("nvidia-l4", GPTQ, {"quantization": "gptq_marlin"}, (Level.OK, "gptq", None)),
        (
            "nvidia-l4",
            GPTQ,
            {"quantization": "awq"},
            (Level.ERROR, "but the checkpoint is gptq w4a16", "quantization"),
        ),
        (
            "nvidia-l4",
            INT8,
            {"quantization": "fp8"},
            (Level.ERROR, "but the checkpoint is compressed", "quantization"),
        ),
        (
            "nvidia-l4",
            None,
            {"quantization": "compressed-tensors"},
            (Level.ERROR, "no quantization_config", "quantization"),
        ),
        ("nvidia-l4", None, {"quantization": "awq"}, (Level.WARNING, "quant_config.json", "quantization")),
        (
            "nvidia-l4",
            GPTQ,
            {"dtype": "float32"},
            (Level.ERROR, "gptq computes in float16 or bfloat16", "dtype"),
        ),
        ("nvidia-a100-40gb", FP8, {}, (Level.WARNING, "computes in 16", None)),
        (
            "nvidia-a100-40gb",
            None,
            {"quantization": "fp8"},
            (Level.WARNING, "computes in 16", "quantization"),
        ),
        ("v100", FP8, {}, (Level.ERROR, "needs compute capability 7.5, and v100 has 7", None)),
        (
            "nvidia-t4",
            None,
            {"dtype": "bfloat16"},
            (Level.ERROR, "nvidia-t4 has compute capability 7.5", "dtype"),
        ),
    ],
)
def test_checkpoint_options_and_gpu_fit_or_the_place_is_named(
    tmp_path: Path, gpu: str, checkpoint: Any, args: dict[str, Any], expected: tuple[Level, str, str | None]
):
    level, words, field = expected
    config = {} if checkpoint is None else {"quantization_config": checkpoint}
    facts = ModelFacts(1, {"BF16": 1}, config)
    (found,) = quantization([agent(tmp_path, gpu, **args)], {"s3://models/m": facts})
    assert found.level is level
    assert words in found.text
    if level is not Level.OK:
        place = ("spec", "stages", 0, "engine", "args", field) if field else ("spec", "gpu", "type")
        assert found.field == place
        assert found.fix


def test_what_cannot_be_read_is_said_and_options_alone_are_checked(tmp_path: Path):
    odd = agent(tmp_path, "nvidia-l4", quantization="awq", dtype="float32")
    found = list(quantization([odd], {"s3://models/m": Unknown("no answer")}))
    assert [one.level for one in found] == [Level.ERROR, Level.UNKNOWN]
    assert "whether the model of generate-chat is awq: unknown, because no answer" in found[1].text
    # On one machine no model gets the GPU that the file names.
    old = agent(tmp_path, "v100")
    facts = ModelFacts(1, {"I8": 1}, {"quantization_config": INT8})
    assert [one.level for one in quantization([old], {"s3://models/m": facts}, gpus=False)] == [Level.OK]
    assert list(quantization([old], {})) == []


def test_render_names_the_line_and_reads_no_bucket(tmp_path: Path):
    model = make_model(tmp_path / "model").path
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": INT8}))
    path = write_agent(tmp_path, "nvidia-l4", str(model), quantization="awq")
    result = CliRunner().invoke(app, ["render", "-f", str(path)])
    assert result.exit_code != 0
    lines = [text.strip() for text in path.read_text().splitlines()]
    line = lines.index("quantization: awq") + 1
    assert f"{path}:{line}: spec.stages.0.engine.args.quantization" in str(result.exception)
    path = write_agent(tmp_path, "nvidia-a100-40gb", quantization="fp8")
    result = CliRunner().invoke(app, ["render", "-f", str(path)])
    assert result.exit_code == 0
    assert "computes in 16" in result.stderr


async def test_a_checkpoint_in_a_bucket_is_read_where_its_quantization_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = make_model(tmp_path / "model").path
    with s3_server(tmp_path / "s3.log") as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        uri = s3.upload(model, "quantized", "m")
        named = agent(tmp_path, "nvidia-l4", uri, quantization="fp8")
        found = await read_models([named], gpus=False)
        assert isinstance(found[uri], ModelFacts)
        assert await read_models([named], remote=False) == {}
        plain = agent(tmp_path, "nvidia-l4", uri)
        assert await read_models([plain], gpus=False) == {}


@pytest.mark.vllm
def test_vllm_says_the_same_of_methods():
    from vllm.model_executor.layers.quantization import get_quantization_config

    for name in ("awq", "awq_marlin", "gptq", "gptq_marlin", "fp8", "fbgemm_fp8", "mxfp4"):
        theirs = get_quantization_config(name)
        ours = scheme_of({"quantization_config": {"quant_method": name}})
        assert ours is not None
        assert ours.least_capability == theirs.get_min_capability() / 10, name
        if family(name) != "mxfp4":
            assert needs_sixteen_bits(family(name))
            assert "torch.float32" not in map(str, theirs.get_supported_act_dtypes())
    from vllm.model_executor.layers.quantization.compressed_tensors import schemes

    assert schemes.CompressedTensorsW8A8Int8.get_min_capability() == 75
    assert schemes.CompressedTensorsWNA16.get_min_capability() == 75
    assert schemes.CompressedTensorsW8A16Fp8.get_min_capability() == 75
    assert schemes.CompressedTensorsW8A8Fp8.get_min_capability() == 89
