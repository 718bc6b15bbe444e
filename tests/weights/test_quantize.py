"""`pilotlight model quantize`: rounding is small, what is interrupted goes on, nothing is half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from pilotlight.cli.model import app
from weights.make_model import make_model
from weights.quantize import schemes
from weights.quantize.checkpoint import quantize_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.weights.s3 import S3Server

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "source", shard_bytes=2 << 20).path


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def _ignore(_done: int, _total: int) -> None:
    pass


@pytest.mark.parametrize(("scheme", "error"), [("w8a8-int8", 0.02), ("fp8", 0.06), ("w4a16", 0.2)])
def test_restored_weights_are_near_the_source(source: Path, tmp_path: Path, scheme: str, error: float):
    made = quantize_checkpoint(source, tmp_path / "made", scheme, _ignore)
    before, after = _tensors(source), _tensors(made.path)
    weight = before[Q_PROJ].float()
    scale = after[f"{Q_PROJ}_scale"].float()
    if scheme == "w4a16":
        packed = after[f"{Q_PROJ}_packed"]
        values = torch.stack([(packed >> (4 * place)) & 15 for place in range(8)], dim=2) - 8
        restored = values.view_as(weight).float() * scale.repeat_interleave(
            weight.shape[1] // scale.shape[1], 1
        )
    else:
        restored = after[Q_PROJ].float() * scale
    assert float((restored - weight).norm() / weight.norm()) < error
    assert made.bytes < made.source_bytes
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    config = json.loads((made.path / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    index = json.loads((made.path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == after.keys()


def test_an_interrupted_run_leaves_no_destination_and_goes_on(source: Path, tmp_path: Path):
    def stop_at(limit: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if done == min(limit, total):
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(source, tmp_path / "made", "w8a8-int8", stop_at(10**9))
    assert not (tmp_path / "made").exists()
    made = quantize_checkpoint(source, tmp_path / "made", "w8a8-int8", _ignore)
    assert made.resumed_files == len(list(source.glob("*.safetensors"))) - 1
    whole = quantize_checkpoint(source, tmp_path / "whole", "w8a8-int8", _ignore)
    for path in whole.path.iterdir():
        assert path.read_bytes() == (made.path / path.name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"made", "whole"}


_KILLED = """
import os, signal, sys
from pathlib import Path
from weights.quantize.checkpoint import quantize_checkpoint

def progress(done, total):
    if done == total - 2:
        os.kill(os.getpid(), signal.SIGKILL)

quantize_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), "w4a16", progress)
"""


def test_a_killed_run_leaves_no_destination_and_goes_on(source: Path, tmp_path: Path):
    command = [sys.executable, "-c", _KILLED, str(source), str(tmp_path / "made")]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    staging = tmp_path / ".made.quantizing"
    assert {path.name for path in tmp_path.iterdir()} == {staging.name}
    assert list(staging.glob("*.data"))  # half of a file, under no name that is loaded
    made = quantize_checkpoint(source, tmp_path / "made", "w4a16", _ignore)
    assert made.resumed_files == len(list(source.glob("*.safetensors"))) - 1
    whole = quantize_checkpoint(source, tmp_path / "whole", "w4a16", _ignore)
    for path in whole.path.iterdir():
        assert path.read_bytes() == (made.path / path.name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"made", "whole"}


_PEAK = """
import sys
from pathlib import Path
from weights.quantize.checkpoint import quantize_checkpoint

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

quantize_checkpoint(Path(sys.argv[1]), Path(sys.argv[3]), "w8a8-int8", lambda *_: None)
before = peak()
quantize_checkpoint(Path(sys.argv[2]), Path(sys.argv[4]), "w8a8-int8", lambda *_: None)
print(peak() - before)
"""


def test_a_model_larger_than_memory_passes_tensor_by_tensor(source: Path, tmp_path: Path):
    size = 120_000_000
    large = make_model(tmp_path / "large", size=size).path
    places = [str(path) for path in (source, large, tmp_path / "a", tmp_path / "b")]
    command = [sys.executable, "-c", _PEAK, *places]
    done = subprocess.run(command, check=True, timeout=240, capture_output=True, text=True)
    # Its largest matrix has 5.8 MB, and a million values of it are in 32 bits in some copies: 50 MB in all.
    assert int(done.stdout) < 0.7 * size


def test_a_model_in_a_bucket_is_fetched_and_quantized(
    source: Path, tmp_path: Path, aws: S3Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PILOTLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    uri = aws.upload(source, "to-be-smaller", "m")
    result = CliRunner().invoke(app, ["quantize", uri, str(tmp_path / "made"), "--scheme", "w8a8-int8"])
    assert result.exit_code == 0, result.output
    whole = quantize_checkpoint(source, tmp_path / "whole", "w8a8-int8", _ignore)
    for path in whole.path.iterdir():
        assert path.read_bytes() == (tmp_path / "made" / path.name).read_bytes()
    result = CliRunner().invoke(app, ["quantize", f"{uri}/no", str(tmp_path / "new"), "--scheme", "fp8"])
    assert "to-be-smaller" in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_bad_input_names_field_and_value(source: Path, tmp_path: Path):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((source / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"\x80")
    cases = [
        ([str(source), str(tmp_path / "new"), "--scheme", "int3"], "scheme = int3"),
        ([str(source), str(pickled), "--scheme", "fp8"], "must be absent"),
        ([str(pickled), str(tmp_path / "new"), "--scheme", "fp8"], "are not read"),
        (["s3://models/a", str(pickled), "--scheme", "fp8"], "must be absent"),
        ([str(source), "s3://models/a", "--scheme", "fp8"], "aws s3 sync FOLDER s3://models/a"),
    ]
    for arguments, words in cases:
        result = CliRunner().invoke(app, ["quantize", *arguments], env={"COLUMNS": "400"})
        assert result.exit_code == 2
        assert words in result.output
        assert not (tmp_path / "new").exists()


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        schemes.quantize(Q_PROJ, torch.full((2, 32), float("nan")), "w8a8-int8", 0)
