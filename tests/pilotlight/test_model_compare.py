"""`pilotlight model compare`: what is measured of real models, what is said of it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from pilotlight.cli.model import app
from pilotlight.comparison import page, summary
from pilotlight.comparison.checkpoints import check_memory, read_checkpoints
from pilotlight.comparison.device import type_of
from pilotlight.comparison.economy import dollars_per_million, economy
from pilotlight.comparison.errors import CompareInputError
from pilotlight.comparison.intervals import quality
from pilotlight.comparison.measure import ProcessorTimes, disturbance
from pilotlight.comparison.prompts import MOST_PROMPTS, read_prompts
from pilotlight.comparison.run import Request, price_of
from pilotlight.comparison.scores import Place, PromptScore, common_prefix, divergence, score
from pilotlight.comparison.tasks import read_results
from pilotlight.comparison.values import Checkpoint, Comparison, Device, Measured, Settings, Start, Task
from pilotlight.comparison.verdict import Answer, Limits, verdicts
from pilotlight.doctor.model_memory import ModelFacts
from pilotlight.gpu_settings import packaged_types
from warmpool.adapters.price_file import packaged_prices
from weights.make_model import make_model
from weights.quantize.checkpoint import quantize_checkpoint

LIMITS = Limits(0.02, 0.95)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and itself in int8."""
    folder = tmp_path_factory.mktemp("models")
    source = make_model(folder / "source").path
    return source, quantize_checkpoint(source, folder / "int8", "w8a8-int8", lambda *_: None).path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "300"})


def place(token: int, probabilities: dict[int, float]) -> Place:
    ids = np.array(list(probabilities), np.int32)
    logprobs = np.log(np.array(list(probabilities.values()), np.float32))
    return Place(token, math.log(probabilities[token]), ids, logprobs)


# Scores


def test_divergence_over_the_whole_vocabulary_is_the_divergence():
    p, q = {0: 0.5, 1: 0.3, 2: 0.2}, {2: 0.25, 0: 0.4, 1: 0.35}
    expected = sum(p[i] * math.log(p[i] / q[i]) for i in p)
    assert divergence(place(0, p), place(0, q)) == pytest.approx(expected, abs=1e-6)
    assert divergence(place(0, p), place(0, p)) == 0


def test_divergence_from_the_most_probable_tokens_is_a_lower_bound():
    draw = np.random.default_rng(1)
    for _ in range(50):
        p, q = (dict(enumerate(draw.dirichlet(np.full(40, 0.3)) + 1e-9)) for _ in range(2))
        whole = divergence(place(0, p), place(0, q))
        cut = [dict(sorted(one.items(), key=lambda item: -item[1])[:5]) | {0: one[0]} for one in (p, q)]
        assert 0 <= divergence(place(0, cut[0]), place(0, cut[1])) <= whole + 1e-5


def test_one_difference_causes_no_other():
    sure = {5: 0.9, 6: 0.1}
    reference = [place(5, sure)] * 6
    model = [place(5, sure)] * 2 + [place(5, {5: 0.4, 6: 0.6})] + [place(5, sure)] * 3
    found = score(reference, model, 3, own=(5, 6, 6, 6), answer=(5, 5, 5, 5))
    assert (found.prompt_places, found.places, found.answer) == (2, 6, 4)
    assert (found.agreed, found.prefix) == (3, 1)  # the one place alone; free-running, all behind it
    assert found.nll == pytest.approx(-2 * math.log(0.9), rel=1e-5)
    assert common_prefix((1, 2), (1, 2, 3)) == 2


def _scores(count: int, agreed: int, nll: float = 20.0, spread: int = 0) -> list[PromptScore]:
    """`count` prompts with 10 places each, of whose answers of 20 tokens so many agree, by turns `spread` less."""
    return [
        PromptScore(nll, 10, 0.01, 30, agreed - spread * (index % 2), 20, agreed - spread * (index % 2))
        for index in range(count)
    ]


def test_intervals_are_of_prompts_and_paired():
    found = quality(_scores(40, 20), _scores(40, 20, spread=4))
    assert found.agreement is not None
    assert found.agreement.value == pytest.approx(0.9)
    assert found.agreement.low is not None
    assert 0.85 < found.agreement.low < 0.9 < (found.agreement.high or 0) < 0.95
    # Prompts differ much in perplexity, but the models do not: the ratio is sharp.
    hard = [dataclasses.replace(one, nll=one.nll + index) for index, one in enumerate(_scores(40, 20))]
    ratio = quality(hard, hard).perplexity_ratio
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == (1, 1, 1)
    alone = quality(_scores(1, 20), _scores(1, 18)).agreement
    assert alone is not None
    assert (alone.low, alone.high) == (None, None)


# Verdict


def _measured(name: str, scores: list[PromptScore], reference: list[PromptScore], **changes: Any) -> Measured:
    facts = ModelFacts(1000, {"BF16": 500}, {})
    made = Measured(
        Checkpoint(name, Path("/models") / name, facts, "bfloat16"),
        quality(reference, scores),
        [Start(10.0, {"import": 8.0, "weights": 1.0})],
        [100.0, 101.0],
        1 << 30,
    )
    if "stored" in changes:
        changes["checkpoint"] = dataclasses.replace(
            made.checkpoint, facts=dataclasses.replace(facts, stored_bytes=changes.pop("stored"))
        )
    return dataclasses.replace(made, **changes)


def _comparison(
    model: list[PromptScore], reference: list[PromptScore] | None = None, **changes: Any
) -> Comparison:
    base = reference or _scores(len(model), 20)
    settings = Settings("p.txt", len(model), 20, {}, 8, 2, None, 4096, Decimal(1), "USD", 20)
    tasks = changes.pop("reference_tasks", ())
    measured = [_measured("a", base, base, tasks=tasks), _measured("b", model, base, **changes)]
    economies = [
        economy(one, {}, gpu_bytes=None, context=10, sequences=1, hourly=settings.hourly) for one in measured
    ]
    return Comparison(settings, Device("CPU", gpu=False), measured, quality(base, base), economies)


@pytest.mark.parametrize(
    ("comparison", "answer", "words"),
    [
        (_comparison(_scores(40, 20), stored=500), Answer.WORTH_IT, "50% of the bytes"),
        (_comparison(_scores(40, 20)), Answer.NOT_WORTH_IT, "nothing is gained"),
        (_comparison(_scores(40, 16), stored=500), Answer.NOT_WORTH_IT, "Only 80.0%"),
        (_comparison(_scores(40, 20, nll=21.0), stored=500), Answer.NOT_WORTH_IT, "10.52% above"),
        (_comparison(_scores(8, 20), stored=500), Answer.TOO_FEW, "about 30"),
        (_comparison(_scores(40, 20, spread=2), stored=500), Answer.TOO_FEW, "hardly decide"),
        (_comparison(_scores(40, 19, nll=90.0), _scores(40, 20, nll=90.0)), Answer.NOTHING_TO_SAY, "tied"),
        (
            _comparison(_scores(40, 20), stored=500, tokens_per_s=[50.0, 51.0]),
            Answer.SMALLER_BUT_SLOWER,
            "0.50 times",
        ),
        (
            _comparison(
                _scores(40, 20),
                stored=500,
                tasks=[Task("t", "acc", 0.5, 0.01, higher_is_better=True)],
                reference_tasks=[Task("t", "acc", 0.6, 0.01, higher_is_better=True)],
            ),
            Answer.NOT_WORTH_IT,
            "t acc is 0.5",
        ),
    ],
)
def test_the_verdict_says_what_the_figures_permit(comparison: Comparison, answer: Answer, words: str):
    (found,) = verdicts(comparison, LIMITS, 1024)
    assert found.answer is answer
    assert words in " ".join(found.reasons)
    text = page.to_html(comparison, [found], LIMITS)
    assert str(answer) in text
    assert text.count("<svg") == 2
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert (
        json.loads(json.dumps(summary.to_json(comparison, [found])))["models"][1]["verdict"]["answer"]
        == answer
    )


def test_nothing_is_said_of_rates_on_a_busy_machine():
    busy = _comparison(_scores(40, 20), stored=500, tokens_per_s=[50.0, 51.0], disturbance=0.4)
    (found,) = verdicts(busy, LIMITS, 1024)
    assert found.answer is Answer.WORTH_IT
    assert "tokens per second" not in " ".join(found.reasons)
    assert "up to 40% of the processors" in " ".join(summary.explanations(busy))
    times = [ProcessorTimes(100, 100, 10), ProcessorTimes(108, 102, 14)]
    assert disturbance(*times) == pytest.approx(0.4)
    assert disturbance(times[0], times[0]) == 0


def test_replicas_and_dollars():
    # Llama 3.1 8B: 32 layers, 8 heads of 128 for keys and values; 16-bit weights, and the same in 8 bits.
    config = {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
    }
    whole, half = (
        dataclasses.replace(
            _measured("m", _scores(2, 20), _scores(2, 20)),
            checkpoint=Checkpoint("m", Path("m"), ModelFacts(0, {dtype: 8_000_000_000}, config), ""),
        )
        for dtype in ("BF16", "I8")
    )
    options: dict[str, Any] = {
        "gpu_bytes": 80 << 30,
        "context": 4096,
        "sequences": 8,
        "hourly": Decimal("3.6"),
    }
    assert economy(whole, {}, **options).replicas_per_gpu == 3
    assert economy(half, {}, **options).replicas_per_gpu == 5
    assert economy(whole, {"tensor-parallel-size": 2}, **options).replicas_per_gpu is None
    assert dollars_per_million([1000.0], Decimal("3.6")) == pytest.approx(1.0)
    assert dollars_per_million([1000.0], None) is None


def test_a_price_is_taken_only_for_the_device_that_was_measured():
    def price(**given: Any) -> tuple[Decimal | None, str | None]:
        hourly = given.pop("hourly", None)
        request = Request(
            [], Path("p"), packaged_prices(), packaged_types(), hourly=hourly, **given.pop("more", {})
        )
        return price_of(request, **given)

    known = packaged_prices().of("nvidia-l4")
    assert known is not None
    assert price(gpu="nvidia-l4", here="nvidia-l4", on="NVIDIA L4")[0] == known.hourly
    two = {"args": {"tensor-parallel-size": 2}}
    assert price(gpu="nvidia-l4", here="nvidia-l4", on="NVIDIA L4", more=two)[0] == 2 * known.hourly
    for here in (None, "nvidia-t4"):
        found, why = price(gpu="nvidia-l4", here=here, on="CPU")
        assert found is None
        assert why is not None
        assert "not on nvidia-l4" in why
    assert price(gpu=None, here=None, on="CPU", hourly=Decimal(2)) == (Decimal(2), None)
    assert type_of("NVIDIA H200", packaged_types()) == "nvidia-h200"
    assert type_of("NVIDIA GTX", packaged_types()) is None


def test_scores_of_lm_eval_are_read():
    content = {
        "results": {
            "t": {"alias": "t", "acc,none": 0.4, "acc_stderr,none": 0.1, "ppl,none": 3.0, "sample_len": 6}
        },
        "higher_is_better": {"t": {"acc": True, "ppl": False}},
    }
    assert read_results(content) == (
        Task("t", "acc", 0.4, 0.1, higher_is_better=True),
        Task("t", "ppl", 3.0, None, higher_is_better=False),
    )


# What is refused


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n\n{"prompt": 1}\n', ":3: must be {"),
        ("p.jsonl", b'{"messages": [{"role": "user"}]}', ":1: must be {"),
        ("p.jsonl", b'{"prompt": "a"\n', ":1: is not JSON"),
        ("p.txt", b"a\n" + b"x" * 70_000, ":2: must have at most 65,536 bytes"),
        ("p.txt", b"a\n\xff\n", ":2: must be UTF-8"),
        ("p.txt", b"a\n" * (MOST_PROMPTS + 1), f":{MOST_PROMPTS + 1}: must have at most"),
        ("p.txt", b"\n", "has no prompts"),
    ],
)
def test_prompts_are_bounded_and_named_by_their_line(tmp_path: Path, name: str, content: bytes, words: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CompareInputError) as error:
        read_prompts(tmp_path / name)
    assert words in str(error.value)


def test_texts_and_chats_are_prompts(tmp_path: Path):
    file = tmp_path / "p.jsonl"
    file.write_text(
        '"one"\n{"prompt": "two", "max_tokens": 3}\n{"messages": [{"role": "user", "content": "hi"}]}'
    )
    found = read_prompts(file)
    assert [prompt.request() for prompt in found] == [
        {"prompt": "one"},
        {"prompt": "two"},
        {"messages": [{"role": "user", "content": "hi"}]},
    ]


def test_what_cannot_be_compared_is_refused_before_anything_starts(models: tuple[Path, Path], tmp_path: Path):
    source, int8 = models
    other = shutil.copytree(source, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][::-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    larger = shutil.copytree(source, tmp_path / "larger")
    config = json.loads((larger / "config.json").read_text())
    (larger / "config.json").write_text(json.dumps(config | {"vocab_size": 2048}))
    prompts = tmp_path / "p.txt"
    prompts.write_text("hello\n")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((source, tmp_path / "absent"), "must be a folder with config.json"),
        ((source,), "two models at least"),
        ((source, source), "is named twice"),
        ((source, "s3://models/a"), "must be a folder"),
        ((source, other), "another tokenizer (tokenizer.json differs in model)"),
        ((source, larger), "a vocabulary of 2,048 tokens, not 1,024"),
        ((source, int8, "--gpu", "nvidia-t5"), "--gpu nvidia-t5: must be one of"),
        ((source, int8, "--context", "100000"), "--context 100000: must be from 2 to 8192"),
        ((source, int8, "--engine-args", '{"port": 1}'), "port: is set by the replica"),
        ((source, int8, "--engine-args", "[]"), "must be a JSON object"),
        ((source, int8, "--hourly", "much"), "must be a price"),
        ((source, int8, "--prices", tmp_path / "absent"), "No such file"),
        ((source, int8, "--report", tmp_path / "absent/x.html"), "must be a file in a folder"),
        ((source, int8, "--tasks", "hellaswag"), "pip install 'lm-eval[api]'"),
    ]
    for arguments, words in cases:
        result = run(*arguments, "--prompts", prompts)
        assert result.exit_code != 0
        assert words in f"{result.output}{result.exception}", arguments


def test_a_model_that_does_not_fit_is_refused(models: tuple[Path, Path]):
    checkpoint = read_checkpoints(models)[0]
    large = dataclasses.replace(
        checkpoint, facts=ModelFacts(0, {"BF16": 8_000_000_000}, checkpoint.facts.config)
    )
    check_memory(large, {}, available=64 << 30, gpu_bytes=None)
    with pytest.raises(CompareInputError, match=r"weights 16\.0 GB .* do not fit into 8\.6 GB"):
        check_memory(large, {}, available=8 << 30, gpu_bytes=None)
    with pytest.raises(CompareInputError, match="does not fit the GPU"):
        check_memory(large, {}, available=64 << 30, gpu_bytes=16 << 30)


# Real models


@pytest.mark.vllm
def test_a_model_and_its_int8_are_served_measured_and_judged(models: tuple[Path, Path], tmp_path: Path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "The quick brown"}\n{"messages": [{"role": "user", "content": "Hi"}]}\n')
    report = tmp_path / "r.html"
    result = run(
        *(*models, "--prompts", prompts, "--report", report, "--json", "--answer-tokens", 6),
        *("--rounds", 1, "--gpu", "nvidia-l4", "--hourly", "0.5", "--context", 256, "--top", -1),
    )
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(result.stdout)
    reference, int8 = found["models"]
    assert reference["agreement"]["value"] == found["reference_again"]["agreement"]["value"] == 1
    assert reference["perplexity_ratio"]["value"] == 1
    assert reference["divergence"]["value"] == 0 < int8["divergence"]["value"] < 0.1
    assert int8["bytes"] < 0.6 * reference["bytes"]
    assert int8["scheme"] == "compressed-tensors w8a8 int"
    for one in (reference, int8):
        assert one["perplexity"]["value"] > 1
        assert {"import", "weights", "init"} <= set(one["cold_starts"][0]["phases"])
        assert one["tokens_per_s"][0] > 0
        assert one["memory_bytes"] > 100 << 20
        assert one["replicas_per_gpu"] > 1
        assert one["per_million_tokens"] > 0
    assert int8["verdict"]["answer"] in set(Answer)
    assert "int8" in report.read_text()


@pytest.mark.vllm
def test_an_interrupted_comparison_leaves_nothing(models: tuple[Path, Path], tmp_path: Path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("hello\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = str(Path(sys.executable).with_name("pilotlight"))
    command = [program, "model", "compare", *map(str, models), "--prompts", str(prompts)]
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "TMPDIR": str(scratch)}
        )
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 120
        # The replica has started its template process.
        while len(family) < 2 and process.poll() is None and time.monotonic() < deadline:
            family = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.1)
        assert len(family) >= 2, (tmp_path / "log").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130, (tmp_path / "log").read_text()
        assert psutil.wait_procs(family, timeout=60)[1] == []
        assert list(scratch.glob("pilotlight-compare-*")) == []
    finally:
        process.kill()
