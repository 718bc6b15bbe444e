"""The engine `onnx`: embedding models in onnxruntime, from `model.onnx` and `tokenizer.json`.

The model runs in the stage's process and needs no accelerator. Its layout is that of sentence-transformers'
ONNX exports: inputs `input_ids`, `attention_mask` and, for some, `token_type_ids`; an output
`sentence_embedding`, or token vectors, which are pooled as `1_Pooling/config.json` says (mean without it).
Vectors have length 1 unless `normalize` is off.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from functions.contract import Usage
from functions.engine import (
    ChatRequest,
    Chunk,
    Embeddings,
    EmbedRequest,
    Engine,
    EngineError,
    EngineInfo,
    GenerateRequest,
    UnsupportedError,
)
from functions.engines.embeddings_api import embeddings_router
from functions.engines.hosted import AlwaysHotHost, EngineArgs, parse_args
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings, SettingsError
from functions.stage import StageRoutes, StageRuntime, StartError
from functions.timing import Phase
from knative import env_vars

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Encoding, Tokenizer

MODEL_FILES = ("*.onnx", "*.onnx_data", "onnx/*.onnx", "tokenizer*", "config.json", "1_Pooling/config.json")
"""The files of a model that this engine needs."""

Pooling = Literal["mean", "cls"]

_ONLY_EMBEDS = "{}; it embeds: POST /v1/embeddings"


class OnnxArgs(EngineArgs):
    """Options of this engine."""

    file: str | None = None
    """The model's file, relative to the model's folder; by default `model.onnx` or `onnx/model.onnx`."""
    pooling: Pooling | None = None
    """How token vectors are pooled; by default as the model's `1_Pooling/config.json` says, else mean."""
    normalize: bool = True
    """Scale vectors to length 1."""
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Longest text in tokens; longer ones are refused. By default from config.json, else 512."""
    max_batch: Annotated[int, Field(ge=1)] = 32
    """Texts in one run of the model."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of onnxruntime; by default one for each core."""


class OnnxEngine:
    """The engine. One thread runs one batch after the other; onnxruntime computes on its own threads.

    Args:
        session: an `onnxruntime.InferenceSession`.
        tokenizer: the model's.
        model: the model's name.
        max_model_len: longest text in tokens.
        pooling: for a model whose output is token vectors.
        args: the engine's options.
    """

    def __init__(
        self,
        session: Any,
        tokenizer: "Tokenizer",
        *,
        model: str,
        max_model_len: int,
        pooling: Pooling,
        args: OnnxArgs,
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._model = model
        self._max_model_len = max_model_len
        self._pooling = pooling
        self._args = args
        self._inputs = {value.name for value in session.get_inputs()}
        outputs = [value.name for value in session.get_outputs()]
        self._output = "sentence_embedding" if "sentence_embedding" in outputs else outputs[0]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onnx")

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return EngineInfo("onnx", version("onnxruntime"), self._model, self._max_model_len)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Not offered.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("onnx", _ONLY_EMBEDS.format("generation"))
        yield Chunk(request.prompt)  # makes this an iterator, as the protocol has it

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """Not offered.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("onnx", _ONLY_EMBEDS.format("chat"))
        yield Chunk(request.id)  # makes this an iterator, as the protocol has it

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Vectors of the inputs; see `Engine.embed`. A text that is too long is refused, not truncated."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._embed, request.inputs)

    async def close(self) -> None:
        """Stop the thread after the current batch."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _embed(self, inputs: Sequence[str]) -> Embeddings:
        encodings = self._tokenizer.encode_batch(list(inputs))
        for at, encoding in enumerate(encodings):
            if len(encoding.ids) > self._max_model_len:
                raise EngineError(
                    f"input[{at}] has {len(encoding.ids)} tokens, the model takes {self._max_model_len}: "
                    f"{len(encoding.ids) - self._max_model_len} over",
                    retryable=False,
                    status=413,
                )
        # Batches of texts of similar length, to have little padding.
        order = sorted(range(len(encodings)), key=lambda at: len(encodings[at].ids))
        vectors: dict[int, tuple[float, ...]] = {}
        for begin in range(0, len(order), self._args.max_batch):
            batch = order[begin : begin + self._args.max_batch]
            rows = self._run([encodings[at] for at in batch])
            vectors |= {at: tuple(row) for at, row in zip(batch, rows.tolist(), strict=True)}
        tokens = sum(len(encoding.ids) for encoding in encodings)
        return Embeddings(
            tuple(vectors[at] for at in range(len(encodings))),
            Usage(prompt_tokens=tokens, completion_tokens=0),
        )

    def _run(self, encodings: "Sequence[Encoding]") -> "NDArray[np.float32]":
        import numpy as np  # noqa: PLC0415 - only this engine needs it

        width = max(1, *(len(encoding.ids) for encoding in encodings))
        ids = np.zeros((len(encodings), width), np.int64)
        mask = np.zeros_like(ids)
        types = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            size = len(encoding.ids)
            ids[row, :size] = encoding.ids
            mask[row, :size] = encoding.attention_mask
            types[row, :size] = encoding.type_ids
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        (out,) = self._session.run(
            [self._output], {name: value for name, value in feeds.items() if name in self._inputs}
        )
        rows = np.asarray(out, np.float32)
        if rows.ndim == 3:
            rows = _pooled(rows, mask, self._pooling)
        if self._args.normalize:
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows


def _pooled(
    rows: "NDArray[np.float32]", mask: "NDArray[np.int64]", pooling: Pooling
) -> "NDArray[np.float32]":
    """Pool token vectors to one vector per text.

    Args:
        rows: of shape (texts, tokens, width).
        mask: of shape (texts, tokens), 1 for a token and 0 for padding.
        pooling: how.

    Returns:
        An array of shape (texts, width).
    """
    if pooling == "cls":
        return rows[:, 0]
    weights = mask[:, :, None].astype(rows.dtype)
    total: NDArray[np.float32] = (rows * weights).sum(axis=1) / weights.sum(axis=1).clip(min=1)
    return total


def open_model(folder: Path, args: OnnxArgs, *, model: str) -> OnnxEngine:
    """Load a model from its folder. Blocks; call it in a thread.

    Raises:
        StartError: a file is missing or does not load, or the model does not embed.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise StartError("engine onnx needs onnxruntime: pip install 'pilotlight[onnx]'") from error
    from tokenizers import Tokenizer  # noqa: PLC0415

    names = [args.file] if args.file else ["model.onnx", "onnx/model.onnx"]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise StartError(f"{folder} has no {' or '.join(names)}")
    options = onnxruntime.SessionOptions()
    if args.threads is not None:
        options.intra_op_num_threads = args.threads
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=onnxruntime.get_available_providers()
        )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # both libraries raise bare Exceptions for a bad file
        raise StartError(f"{folder} does not load: {error}") from error
    inputs = {value.name for value in session.get_inputs()}
    unknown = inputs - {"input_ids", "attention_mask", "token_type_ids"}
    if "input_ids" not in inputs or unknown:
        raise StartError(
            f"{path} has inputs {', '.join(sorted(inputs))}; an embedding model has input_ids, "
            "attention_mask and perhaps token_type_ids"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # Texts to embed are ordinary text, whatever special token their words look like.
    tokenizer.encode_special_tokens = True
    return OnnxEngine(
        session,
        tokenizer,
        model=model,
        max_model_len=args.max_model_len or _length_of(folder),
        pooling=args.pooling or _pooling_of(folder),
        args=args,
    )


def _length_of(folder: Path) -> int:
    value = _json_of(folder / "config.json").get("max_position_embeddings")
    return value if isinstance(value, int) and value > 0 else 512


def _pooling_of(folder: Path) -> Pooling:
    """The pooling in sentence-transformers' configuration; mean without one.

    Raises:
        StartError: pooling that this engine does not implement.
    """
    config = _json_of(folder / "1_Pooling" / "config.json")
    modes = {key for key, value in config.items() if key.startswith("pooling_mode_") and value is True}
    if modes == {"pooling_mode_cls_token"}:
        return "cls"
    if modes in (set(), {"pooling_mode_mean_tokens"}):
        return "mean"
    raise StartError(f"1_Pooling/config.json asks for {', '.join(sorted(modes))}; set pooling to mean or cls")


def _json_of(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def build_host(settings: FunctionSettings) -> AlwaysHotHost:
    """The host for these settings.

    Raises:
        SettingsError: a bad option, or no model.
    """
    args = parse_args(OnnxArgs, settings.engine_args)
    uri = settings.model_uri
    if uri is None:
        raise SettingsError(
            (f"{env_vars.MODEL_URI} is not set; must be s3://bucket/prefix, file:///dir or a path",)
        )
    model = settings.model_name or uri.rstrip("/").rpartition("/")[2]

    async def open_engine(replica: ReplicaTracker) -> Engine:
        from weights import WeightsError, pull  # noqa: PLC0415 - after the port is open

        try:
            with replica.measure(Phase.WEIGHTS):
                pulled = await pull(
                    uri,
                    cache_dir=settings.cache_dir,
                    patterns=MODEL_FILES,
                    quota_bytes=settings.cache_quota,
                )
        except WeightsError as error:
            raise StartError(f"{env_vars.MODEL_URI} = {uri}: {error}") from error
        with replica.measure(Phase.INIT):
            engine = await asyncio.to_thread(open_model, pulled.path, args, model=model)
        with replica.measure(Phase.WARMUP):
            await engine.embed(EmbedRequest("warmup", ("warm",)))
        return engine

    def routes(_: StageRuntime, engine: Callable[[], Engine]) -> StageRoutes:
        return StageRoutes(embeddings_router(engine, model))

    return AlwaysHotHost(settings, open_engine, routes)
