"""What `pilotlight up`, `down` and `logs` do."""

import asyncio
import gc
import json
import os
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape

from knative.client.errors import ClusterError
from pilotlight import deploy, stack, terminal
from pilotlight.agent import Agent
from pilotlight.agent_triggers import AgentTrigger
from pilotlight.compile import compile_agent
from pilotlight.compile_triggers import trigger_object
from pilotlight.gateway import PROCESS_FILE
from pilotlight.local_modules import on_this_machine

PROMPT = "How do I reset my password?"


def url_of(gateway: str, agent: Agent) -> str:
    """The function URL of an agent's entry, by path (works without any name resolution)."""
    path = "/" if agent.entry().is_own_image else "/invoke"
    return f"{gateway}/{agent.metadata.namespace}/{agent.service_name(agent.entry())}{path}"


def curl_line(gateway: str, agent: Agent, prompt: str) -> str:
    """A command that calls the agent and shows the tokens as they come."""
    url = url_of(gateway, agent).replace("127.0.0.1", "localhost")
    if agent.entry().is_own_image:
        return f"curl -N {url}"  # what the user's own container takes, only the user knows
    key = (
        ""
        if agent.spec.auth is None or agent.spec.auth.type == "none"
        else ' -H "Authorization: Bearer $KEY"'
    )
    body = json.dumps({"input": prompt, "parameters": {"max_tokens": 48}, "stream": True})
    return f"curl -N {url}{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def send_line(agent: Agent, trigger: AgentTrigger) -> str:
    """A command that sends a message to one of the agent's queues."""
    name = trigger_object(agent, trigger)["metadata"]["name"]
    space = "" if agent.metadata.namespace == "default" else f"{agent.metadata.namespace}/"
    target = next(
        stage for stage in agent.spec.services if stage.name == (trigger.stage or agent.entry().name)
    )
    body = "{}" if target.is_own_image else json.dumps({"input": PROMPT})
    return f"pilotlight trigger send {space}{name} {shlex.quote(body)}"


async def up(config: stack.StackConfig, agents: Sequence[Agent], console: Console | None = None) -> None:
    """Run until SIGINT or SIGTERM; replicas and ports are gone when this returns."""
    console = console or terminal.console()
    with stop_on_signal() as stop:
        async with stack.running(config) as running:
            # Modules and restored objects stay: no collection looks through them in the middle of a request.
            gc.freeze()
            process_file = config.state_dir / PROCESS_FILE
            process_file.write_text(
                json.dumps(
                    {
                        "pid": os.getpid(),
                        "started": psutil.Process().create_time(),
                        "gateway": running.gateway_url,
                    }
                )
            )
            try:
                console.print("[bold]pilotlight[/] runs", highlight=False)
                console.print(f"  functions  {running.gateway_url}")
                console.print(f"  api        {running.platform.api_url}  (GPU slots: {config.gpus})")
                console.print(f"  dashboard  {running.dashboard_url}", soft_wrap=True, highlight=False)
                console.print(f"  limits     {running.platform.limits}")
                console.print(f"  export KUBECONFIG={running.platform.kubeconfig}", soft_wrap=True)
                deploying = asyncio.create_task(_deploy(running, agents, console))
                stopping = asyncio.create_task(stop.wait())
                await asyncio.wait({deploying, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not stop.is_set():
                    await deploying
                    console.print("Ctrl-C stops it and every replica.")
                    await stopping
                deploying.cancel()
            finally:
                process_file.unlink(missing_ok=True)
            console.print("stopping ...")
    console.print("stopped; objects are kept in " + str(config.state_dir))


async def _deploy(running: stack.Stack, agents: Sequence[Agent], console: Console) -> None:
    applied = []
    for agent in agents:
        try:
            for done in await deploy.apply(running.cluster, on_this_machine(compile_agent(agent), [agent])):
                console.print(f"  {done.kind.lower()}/{done.name} {done.outcome}")
        except (deploy.DeployError, ClusterError) as error:
            # The platform goes on: a flag or limit that is missing can only be set while it runs.
            console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
            continue
        applied.append(agent)
    for agent in applied:
        names = [agent.service_name(stage) for stage in agent.spec.services]
        try:
            async for now in deploy.watch_until_ready(
                running.cluster, names, agent.metadata.namespace, timeout_s=900
            ):
                if now.status == "True":
                    console.print(f"  {now.name} ready")
        except deploy.DeployError as error:
            # The platform goes on: the user can look at the logs, mend the file and deploy again.
            console.print(f"[red]error:[/] {error}")
            continue
        console.print(
            f"[bold]{agent.metadata.name}[/] answers at {url_of(running.gateway_url, agent)}",
            soft_wrap=True,
        )
        console.print("  " + curl_line(running.gateway_url, agent, PROMPT), soft_wrap=True, highlight=False)
        for trigger in agent.spec.triggers:
            console.print("  " + send_line(agent, trigger), soft_wrap=True, highlight=False)
        if agent.spec.auth is not None and agent.spec.auth.type == "keys":
            console.print("  KEY=$(pilotlight key create NAME) makes the key that it needs", highlight=False)


@contextmanager
def stop_on_signal() -> Iterator[asyncio.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal interrupts at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def first(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, first, number)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _running(state_dir: Path) -> psutil.Process | None:
    """The process of the platform that runs on `state_dir`."""
    try:
        noted = json.loads((state_dir / PROCESS_FILE).read_text())
        process = psutil.Process(noted["pid"])
        # A pid is used again; its start time is not.
        return process if abs(process.create_time() - noted["started"]) <= 1 else None
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None


def is_running(state_dir: Path) -> bool:
    """Whether a platform runs on `state_dir`."""
    return _running(state_dir) is not None


def down(state_dir: Path, *, timeout_s: float) -> int | None:
    """End the platform that runs on `state_dir`; its pid, or None when there is none.

    Raises:
        StackError: it did not end in time.
    """
    process = _running(state_dir)
    if process is None:
        return None
    process.terminate()
    deadline = time.monotonic() + timeout_s
    # A zombie has ended; only its parent has not looked yet.
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            raise stack.StackError(f"process {process.pid} still runs after {timeout_s:g} s")
        time.sleep(0.05)
    return process.pid


async def logs(state_dir: Path, service: str, *, follow: bool, lines: int) -> None:
    """Print the logs of a Service's replicas, each line behind its replica's name.

    Raises:
        StackError: no replica of it has ever run here.
    """
    namespace, _, name = service.rpartition("/")
    folder = state_dir / "logs" / (namespace or "default")
    # A Revision is called NAME-00001, its replicas after it.
    pattern = f"{name}-[0-9][0-9][0-9][0-9][0-9]*.log"
    offsets: dict[Path, int] = {}
    if not follow and not list(folder.glob(pattern)):
        raise stack.StackError(f"no replica of {namespace or 'default'}/{name} has run here ({folder})")
    while True:
        for path in sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime):
            _print_new(path, offsets, lines)
        if not follow:
            return
        await asyncio.sleep(0.3)


def _print_new(path: Path, offsets: dict[Path, int], lines: int) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        size = path.stat().st_size
        known = offsets.get(path)
        # A file that shrank was rotated: start again.
        file.seek(known if known is not None and known <= size else 0)
        text = file.read()
        offsets[path] = file.tell()
    found = text.splitlines()
    for line in found if known is not None else found[max(0, len(found) - lines) :]:
        print(f"{path.stem} | {line}", flush=True)  # noqa: T201 - the command's output
