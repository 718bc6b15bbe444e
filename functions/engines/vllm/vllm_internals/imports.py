"""Importing vLLM without running anything of it."""

# ruff: noqa: PLC0415 - vLLM is imported by the functions, not with this module

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import sys
from pathlib import Path

from functions.engines.vllm.vllm_internals import command_line
from weights.vllm.load_format import LOAD_FORMAT

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
"""What a server needs; each imports much of the rest."""

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
"""Modules that a server imports while it starts. A missing one costs import time after the fork, no more."""

WORKER_MODULES = {
    "cpu": ("vllm.v1.worker.cpu_worker", "vllm.v1.attention.backends.cpu_attn"),
    "cuda": ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner"),
}
"""Modules of the worker, by vLLM's name of the platform."""


def set_environment() -> None:
    """Set the variables that vLLM reads while it is imported; for the template, before the first import."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins and LOAD_FORMAT not in plugins.split(","):
        # A list of the user's own keeps all other plugins out, and with them the weight loader.
        os.environ["VLLM_PLUGINS"] = f"{plugins},{LOAD_FORMAT}"


def import_all() -> tuple[str, str]:
    """Import what an engine needs, whatever the model.

    Returns:
        vLLM's version and its name of the platform.
    """
    for name in TEMPLATE_MODULES:
        importlib.import_module(name)
    command_line.cli_args()
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
    """Import the classes that the model's `config.json` names, and register them with vLLM.

    vLLM would otherwise inspect a class in a subprocess, which imports everything once more. An architecture
    that vLLM does not know is left for the engine to report.
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


def _import_optional(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        logging.getLogger(__name__).debug("not preloaded: %s (%s)", name, error)


def module_names() -> frozenset[str]:
    """Names of the modules imported so far."""
    return frozenset(sys.modules)
