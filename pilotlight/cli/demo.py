"""`pilotlight demo`: the main job, end to end."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from pilotlight import terminal

try:
    from pilotlight.demo import run as demonstration
    from pilotlight.demo.report import DemoReport
except ModuleNotFoundError as error:
    raise typer.BadParameter(
        f"{error.name} is not installed; the demo needs: pip install 'pilotlight[demo]'"
    ) from error

app = typer.Typer(add_completion=False)

_EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "support"


@app.command()
def demo(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|s3://...", help="Serve this checkpoint.", show_default="a small one is made"
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running afterwards, until Ctrl-C.")] = False,
    agent: Annotated[
        Path, typer.Option(help="Agent file.", show_default="examples/support/agent.yaml")
    ] = _EXAMPLE / "agent.yaml",
    prompts: Annotated[
        Path,
        typer.Option(help="Prompts, one JSON object a line.", show_default="examples/support/prompts.jsonl"),
    ] = _EXAMPLE / "prompts.jsonl",
    build: Annotated[Path, typer.Option(help="Where the report and everything else goes.")] = Path(
        "build/demo"
    ),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Function URLs; another one if it is taken.")
    ] = 8080,
) -> None:
    """Serve real vLLM tokens from zero, then again with a warm pool, and compare."""
    config = demonstration.DemoConfig(agent, prompts, model, build, port, keep)
    report = uvloop.run(_until_terminated(config))
    if any(arm.failures for arm in report.arms):
        raise typer.Exit(1)


async def _until_terminated(config: demonstration.DemoConfig) -> DemoReport:
    """Run the demo; SIGTERM ends it as orderly as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await demonstration.run(config, terminal.console())
    except asyncio.CancelledError:
        if terminated.is_set():
            raise typer.Exit(143) from None
        raise  # Ctrl-C: the runner makes it a KeyboardInterrupt
