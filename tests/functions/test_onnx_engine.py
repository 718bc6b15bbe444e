"""Embeddings through onnxruntime, in a real generate stage, with a small real model made here."""

import asyncio
import base64
import contextlib
import json
import shutil

import numpy as np
import onnx
import openai
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from functions.http.app import create_app
from functions.lifecycle import Warmth
from functions.settings import FunctionSettings, SettingsError
from functions.stages.generate import build
from tests.functions.servers import serving, stage_process, wait_ready

WIDTH = 16


def tensor(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


def make_embedder(folder, vocabulary, *, output="last_hidden_state", types=False):
    """A model that looks up a vector per token, as the first layer of every real one does, and mixes it."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((vocabulary, WIDTH)).astype(np.float32)
    mix = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]),
        helper.make_node("MatMul", ["looked_up", "mix"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], [output]),
    ]
    inputs = [
        tensor("input_ids", TensorProto.INT64, "texts", "tokens"),
        tensor("attention_mask", TensorProto.INT64, "texts", "tokens"),
    ]
    if types:
        inputs.append(tensor("token_type_ids", TensorProto.INT64, "texts", "tokens"))
    graph = helper.make_graph(
        nodes,
        "embedder",
        inputs,
        [tensor(output, TensorProto.FLOAT, "texts", "tokens", WIDTH)],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(mix, "mix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    return lambda ids: np.tanh(table[ids] @ mix)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory, made_model):
    folder = tmp_path_factory.mktemp("embedder")
    shutil.copy(made_model.path / "tokenizer.json", folder)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vectors = make_embedder(folder, tokenizer.get_vocab_size())

    def expected(text, pooling="mean", *, normalize=True):
        rows = vectors(tokenizer.encode(text).ids)
        pooled = rows.mean(axis=0) if pooling == "mean" else rows[0]
        return pooled / np.linalg.norm(pooled) if normalize else pooled

    return folder, expected, tokenizer


@contextlib.asynccontextmanager
async def stage(http, folder, **args):
    settings = FunctionSettings(
        engine="onnx", model_uri=str(folder), model_name="tiny", engine_args=args, service="embed"
    )
    async with serving(create_app(build(settings), settings)) as url:
        await wait_ready(http, url)
        yield url


TEXTS = ["short", "a much longer text about orders and their delivery", "é ü 漢字", "x"]


async def embed(http, url, texts, **more):
    async with http.post(f"{url}/v1/embeddings", json={"input": texts, **more}) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize("batch", [1, 3, 32])
async def test_vectors_are_those_of_the_model_whatever_the_batch(http, embedder, batch):
    folder, expected, tokenizer = embedder
    async with stage(http, folder, **{"max-batch": batch}) as url:
        status, answer = await embed(http, url, TEXTS)
    assert status == 200
    for text, row in zip(TEXTS, answer["data"], strict=True):
        np.testing.assert_allclose(row["embedding"], expected(text), rtol=1e-4, atol=1e-5)
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == sum(len(tokenizer.encode(text).ids) for text in TEXTS)


@pytest.mark.parametrize(
    ("config", "args", "pooling", "normalize"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {}, "cls", True),
        ({"pooling_mode_mean_tokens": True}, {}, "mean", True),
        ({"pooling_mode_cls_token": True}, {"pooling": "mean", "normalize": False}, "mean", False),
    ],
)
async def test_pooling_follows_the_models_own_file_unless_told_otherwise(  # noqa: PLR0917 - one table row
    http, tmp_path, embedder, config, args, pooling, normalize
):
    folder, expected, _ = embedder
    own = tmp_path / "model"
    shutil.copytree(folder, own)
    (own / "1_Pooling").mkdir()
    (own / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **config}))
    async with stage(http, own, **args) as url:
        _, answer = await embed(http, url, TEXTS[1])
    np.testing.assert_allclose(
        answer["data"][0]["embedding"], expected(TEXTS[1], pooling, normalize=normalize), rtol=1e-4, atol=1e-5
    )


async def test_the_official_client_works_against_it_unchanged(http, embedder):
    folder, expected, _ = embedder
    async with stage(http, folder) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused")
        async with client:
            listed = [model.id async for model in client.models.list()]
            answer = await client.embeddings.create(model="tiny", input=TEXTS)
    assert listed == ["tiny"]
    np.testing.assert_allclose(answer.data[1].embedding, expected(TEXTS[1]), rtol=1e-4, atol=1e-5)


async def test_base64_is_little_endian_float32(http, embedder):
    folder, expected, _ = embedder
    async with stage(http, folder) as url:
        _, answer = await embed(http, url, "short", encoding_format="base64")
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, expected("short"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"input": "word " * 100}, 413, "over"),
        ({"input": ["fine", ""]}, 422, "input[1]"),
        ({"input": []}, 422, "input"),
        ({"input": [[1, 2]]}, 422, "input"),
        ({"input": "x", "model": "other"}, 404, "'tiny'"),
        ({"input": "x", "dimensions": 4}, 422, "dimensions"),
        ({}, 422, "input"),
    ],
)
async def test_what_cannot_be_embedded_is_a_clear_problem(http, embedder, body, status, said):
    async with stage(http, embedder[0]) as url, http.post(f"{url}/v1/embeddings", json=body) as response:
        assert response.content_type == "application/problem+json"
        assert response.status == status
        assert said in json.dumps(await response.json(content_type=None))


@pytest.mark.parametrize("given", ["text", [{"role": "user", "content": "hi"}]])
async def test_generating_is_not_offered_and_says_so(http, embedder, given):
    async with stage(http, embedder[0]) as url, http.post(f"{url}/invoke", json={"input": given}) as response:
        problem = await response.json(content_type=None)
        assert response.status == 501
        assert "onnx does not offer" in problem["detail"]
        assert "POST /v1/embeddings" in problem["detail"]
        assert problem["retryable"] is False


async def test_many_at_once_are_all_answered_rightly(http, embedder):
    folder, expected, _ = embedder
    async with stage(http, folder) as url:
        answers = await asyncio.gather(*(embed(http, url, f"text number {n}") for n in range(64)))
    for n, (status, answer) in enumerate(answers):
        assert status == 200
        np.testing.assert_allclose(
            answer["data"][0]["embedding"], expected(f"text number {n}"), rtol=1e-4, atol=1e-5
        )


async def test_a_model_with_token_types_gets_them(http, tmp_path, embedder):
    folder, _, tokenizer = embedder
    own = tmp_path / "model"
    shutil.copytree(folder, own)
    make_embedder(own, tokenizer.get_vocab_size(), types=True)
    async with stage(http, own) as url:
        status, _ = await embed(http, url, "x")
    assert status == 200


async def test_as_its_own_process_it_reports_its_cold_start(http, tmp_path, embedder):
    with stage_process(
        "generate",
        tmp_path,
        PILOTLIGHT_ENGINE="onnx",
        PILOTLIGHT_MODEL_URI=f"file://{embedder[0]}",
        PILOTLIGHT_MODEL_NAME="tiny",
    ) as process:
        await wait_ready(http, process.url)
        status, _ = await embed(http, process.url, "x")
        assert status == 200
    (line,) = [line for line in process.lines() if line["message"] == "cold start"]
    assert set(line["phases"]) == {"import", "weights", "init", "warmup"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"nonsense"), "does not load"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "does not load"),
    ],
)
async def test_a_model_that_does_not_load_fails_the_start_with_the_cause(tmp_path, embedder, spoil, said):
    own = tmp_path / "model"
    shutil.copytree(embedder[0], own)
    spoil(own)
    with stage_process(
        "generate",
        tmp_path,
        PILOTLIGHT_ENGINE="onnx",
        PILOTLIGHT_MODEL_URI=str(own),
        PILOTLIGHT_FAILURE_SECONDS="0",
    ) as process:
        assert await asyncio.to_thread(process.wait) == 1
        (failed,) = [line for line in process.lines() if line["message"] == "replica failed"]
        assert said in failed["cause"]
        assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "PILOTLIGHT_MODEL_URI"),
        ({"model_uri": "x", "engine_args": {"pooling": "max"}}, "pooling"),
        ({"model_uri": "x", "warmth": Warmth.STANDBY}, "PILOTLIGHT_WARMTH"),
    ],
)
def test_bad_settings_say_what_would_be_right(settings, said):
    with pytest.raises(SettingsError, match=said):
        build(FunctionSettings(engine="onnx", **settings))


async def test_special_tokens_in_a_text_are_text(http, embedder):
    folder, expected, tokenizer = embedder
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    text = f"a page with {special[0]} and {special[-1]}"
    tokenizer.encode_special_tokens = True
    try:
        as_text, count = expected(text), len(tokenizer.encode(text).ids)
    finally:
        tokenizer.encode_special_tokens = False
    assert count > len(tokenizer.encode(text).ids)
    async with (
        stage(http, folder) as url,
        http.post(f"{url}/v1/embeddings", json={"input": text}) as response,
    ):
        answer = await response.json()
    assert answer["usage"]["prompt_tokens"] == count
    np.testing.assert_allclose(answer["data"][0]["embedding"], as_text, atol=1e-5)
