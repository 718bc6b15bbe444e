"""vLLM's OpenAI server with its engine, in a process forked from the template."""

# ruff: noqa: PLC0415 - vLLM is imported by the functions, not with this module

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from functions.engines.vllm.vllm_internals import command_line

if TYPE_CHECKING:
    import argparse


def uses_in_process_worker(args: argparse.Namespace) -> bool:
    """Whether the single worker can run inside the engine core's process (executor `uni`): on CPUs, one rank.

    vLLM's default on CPUs is a worker process, which polls for work and takes a processor from the server.
    """
    from vllm.platforms import current_platform

    return bool(
        current_platform.is_cpu()
        and args.distributed_executor_backend in {None, "uni"}
        and args.tensor_parallel_size * args.pipeline_parallel_size * args.data_parallel_size == 1
    )


def serve(argv: Sequence[str], on_ready: Callable[[], None]) -> None:
    """Run vLLM's OpenAI server with its engine until it is told to stop.

    Args:
        argv: command line with `--uds`.
        on_ready: called once the server accepts requests.

    Raises:
        OptionError: an option is refused.
        Exception: the engine did not start; vLLM raises many kinds.
    """
    import uvloop

    args = command_line.parse(argv)
    # Adds the control paths (sleep, wake_up, is_sleeping). The socket is private, and the proxy passes none
    # on.
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    # The replica's process, its only client, closes idle connections. If the server did, a request sent at
    # that moment would be lost.
    os.environ["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = "86400"
    if in_process := uses_in_process_worker(args):
        # vLLM accepts this executor on CPUs only without multiprocessing, since OpenMP's variables are not
        # read again in a process that is running; the template's environment has them already.
        args.distributed_executor_backend = "uni"
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    uvloop.run(_serve(args, on_ready, in_process=in_process))


async def _serve(args: argparse.Namespace, on_ready: Callable[[], None], *, in_process: bool) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    address, listening = setup_server(args, reuse_port=False)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    command_line.cli_args().propagate_flash_late_interaction(args, engine_args)
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    if in_process:
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
        announced = asyncio.create_task(_wait_listening(args.uds, on_ready))
        stopping = await served
        announced.cancel()
    finally:
        engine.shutdown(timeout=config.shutdown_timeout)
    try:
        await stopping
    finally:
        listening.close()


async def _wait_listening(path: str, on_ready: Callable[[], None]) -> None:
    """Call `on_ready` once the socket accepts connections: vLLM listens after its application has started."""
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(path)
        except OSError:
            await asyncio.sleep(0.005)
        else:
            writer.close()
            on_ready()
            return


def core_pids() -> tuple[int, ...]:
    """Process ids of the engine cores, which are children of the calling server."""
    return tuple(child.pid for child in multiprocessing.active_children() if child.pid is not None)
