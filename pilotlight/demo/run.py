"""The demo's steps, in order, with what is shown while they run."""

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml
from rich.console import Console

from pilotlight import deploy, stack, up
from pilotlight.agent import Agent, AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from pilotlight.demo import s3, snapshot, survival
from pilotlight.demo.arms import ArmMeasurement, Prompt, Request, Runner
from pilotlight.demo.errors import DemoError
from pilotlight.demo.event import EventMeasurement, send_one
from pilotlight.demo.month import price_a_month, show_month
from pilotlight.demo.report import DemoReport, Price, show
from pilotlight.dispatching import embedded_sqs
from warmpool.adapters.price_file import packaged_prices
from weights.cache.location import CACHE_DIR_VARIABLE
from weights.make_model import make_model
from weights.manifest import Manifest
from weights.sources.address import absolute_uri
from weights.sources.factory import open_source
from weights.sources.listing import inspect

GPU = "nvidia-l4"
BUCKET, PREFIX = "models", "support-llama"


@dataclass(frozen=True)
class DemoConfig:
    """What the demo can be told.

    Attributes:
        agent: the agent file.
        prompts: the prompts file, one JSON object a line: `{"id", "prompt", "max_tokens"}`.
        model: a folder or `s3://BUCKET/PREFIX`; None makes a small model.
        build: where everything goes.
        port: of the function URLs; taken if it is free, else a free one.
        keep: leave the platform running until Ctrl-C.
    """

    agent: Path
    prompts: Path
    model: str | None
    build: Path
    port: int
    keep: bool


@dataclass(frozen=True)
class _Model:
    uri: str
    kept_uri: str
    """Where the model is once the demo's own S3 endpoint has ended."""
    env: dict[str, str]
    parameters: int


async def run(config: DemoConfig, console: Console) -> DemoReport:
    """Run the demo; every process and port is gone when this returns or raises.

    Raises:
        DemoError: something of the demo's own is missing or broken, a full disk for example.
        StackError, DeployError, AgentFileError: as the parts say.
    """
    try:
        return await _run(config, console)
    except OSError as error:
        where = error.filename or config.build
        raise DemoError(f"{where}: {error.strerror or error}") from error


async def _run(config: DemoConfig, console: Console) -> DemoReport:
    # Everything that can be checked is, before an earlier demo's model and report are touched.
    agent = load_agent(config.agent)
    prompts = read_prompts(config.prompts)
    if agent.spec.model is None:
        raise AgentFileError(f"{config.agent}: spec.model: is missing; the demo runs a model")
    demo_objects(agent)
    price()
    given = None if config.model is None else await _inspect_given(config.model, console)
    if given is None:
        s3.check_installed()
    _clear(config.build)
    async with AsyncExitStack() as exits:
        model = await exits.enter_async_context(_make(config, console)) if given is None else given
        kept = write_kept_agent(config, model.kept_uri)
        agent = agent.with_model(model.uri)
        with _step(console, "a Knative for this machine, with the warm-pool controller") as done:
            stack_config = _stack_config(config, model)
            running = await exits.enter_async_context(stack.running(stack_config))
            done(f"functions at {running.gateway_url}, Kubernetes API at {running.platform.api_url}")
        await _deploy(running, agent, console)
        runner = Runner(running.cluster, running.gateway_url, f"{running.platform.api_url}/metrics", agent)
        with _step(console, "the engine's name and version") as done:
            engine = {"name": "vllm", "version": await runner.engine_version()}
            done(f"{engine['name']} {engine['version']}, {model.parameters:,} parameters")
        with _step(console, "scale to zero (nothing asks for it)") as done:
            await runner.until(runner.services, hot=False, timeout_s=300)
            done("no replica is left")
        arms = []
        for name, pool in (("pool_off", False), ("pool_on", True)):
            # Every start of the model reads S3: what an earlier one cached would make the arms unequal.
            shutil.rmtree(config.build / "cache", ignore_errors=True)
            arms.append(await _arm(runner, console, name, prompts, pool=pool))
        event = await _event(running, agent, stack_config, prompts[0], console)
        survived = await _survived(running, agent, prompts[0], console)
        restored = await _restored(running, runner, agent, stack_config, prompts[0], console)
        report = DemoReport(engine, model.parameters, arms, price(), restored)
        with _step(console, "a month of such traffic, priced with what was measured") as done:
            month = await asyncio.to_thread(price_a_month, report, agent, config.build / "month")
            done("simulated" if month else "nothing was measured to go by")
        content = report.to_json() | {
            "event": event and event.to_json(),
            "survived": survived and survived.to_json(),
            "month": month and month.to_json(),
        }
        (config.build / "report.json").write_text(json.dumps(content, indent=2) + "\n")
        show(report, console)
        if month is not None:
            show_month(month, report.price, console)
        curl = partial(up.curl_line, agent=agent, prompt=up.PROMPT)
        await _farewell(config, console, running.gateway_url, kept, curl)
    return report


async def _inspect_given(model: str, console: Console) -> _Model:
    uri = _given(model)
    with _step(console, f"the model at {uri}") as done:
        manifest = await asyncio.to_thread(_inspect, uri)
        done(f"{manifest.parameters:,} parameters")
    return _Model(uri, uri, {}, manifest.parameters)


@asynccontextmanager
async def _make(config: DemoConfig, console: Console) -> AsyncIterator[_Model]:
    folder = (config.build / "model").absolute()
    with _step(console, "a small real Llama with its tokenizer") as done:
        made = await asyncio.to_thread(make_model, folder, name=PREFIX)
        done(f"{made.parameters:,} parameters, {made.weight_bytes / 1e6:.1f} MB")
    async with s3.serving(config.build / "s3.log") as endpoint:
        with _step(console, "an S3 endpoint with the model in it") as done:
            size = await asyncio.to_thread(s3.upload, endpoint, folder, BUCKET, PREFIX, lambda _: None)
            done(f"s3://{BUCKET}/{PREFIX}, {size / 1e6:.1f} MB")
        yield _Model(f"s3://{BUCKET}/{PREFIX}", str(folder), dict(endpoint.env), made.parameters)


def _inspect(uri: str) -> Manifest:
    source = open_source(uri)
    try:
        return inspect(source)
    finally:
        source.close()


def _given(model: str) -> str:
    """`--model` as a URI: a folder's absolute path, or the S3 URI as it is."""
    uri = absolute_uri(model, Path.cwd())
    if "://" not in uri and not (Path(uri) / "config.json").is_file():
        raise DemoError(
            f"--model {model}: no config.json in there; give a folder with a checkpoint, or s3://..."
        )
    return uri


def _stack_config(config: DemoConfig, model: _Model) -> stack.StackConfig:
    env = stack.inherited_env()
    env |= (
        snapshot.criu_environment(env)
        | model.env
        | {CACHE_DIR_VARIABLE: str((config.build / "cache").absolute())}
    )
    port = config.port if _is_free(config.port) else 0
    return stack.StackConfig(
        state_dir=(config.build / "state").absolute(),
        gateway_port=port,
        api_port=0,
        gpus=1,
        env=env,
        sqs=model.env.get("AWS_ENDPOINT_URL"),
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _deploy(running: stack.Stack, agent: Agent, console: Console) -> None:
    names = [agent.service_name(stage) for stage in agent.spec.services]
    with _step(
        console, f"deploy agent {agent.metadata.name} (each stage starts once, to prove that it can)"
    ) as done:
        await deploy.apply(running.cluster, demo_objects(agent))
        namespace = agent.metadata.namespace
        seen = deploy.watch_until_ready(running.cluster, names, namespace, timeout_s=600)
        done(", ".join([now.name async for now in seen if now.status == "True"]))


def demo_objects(agent: Agent) -> list[dict[str, Any]]:
    """The agent's objects with every warm pool's window open all week, and the pools off to begin with."""
    objects = compile_agent(agent)
    for obj in objects:
        if obj["kind"] == "WarmPool":
            window = {"name": "demo", "from": "00:00", "to": "24:00", "replicas": 1}
            obj["spec"] = {"target": obj["spec"]["target"], "windows": [window], "enabled": False}
    if not any(obj["kind"] == "WarmPool" for obj in objects):
        raise DemoError(f"agent {agent.metadata.name} has no warmPool: the demo has nothing to switch on")
    return objects


async def _arm(
    runner: Runner, console: Console, name: str, prompts: list[Prompt], *, pool: bool
) -> ArmMeasurement:
    state = "on (a window is open)" if pool else "off (the first finds zero replicas)"
    title = f"{len(prompts)} prompts, pool {state}"
    with _step(console, title) as done:
        arm = await runner.run(name, prompts, pool=pool, on_progress=lambda text, _: done.progress(text))
        done(f"{len(arm.requests) - len(arm.failures)} answered, {arm.cold_starts} cold")
    return arm


async def _restored(  # noqa: PLR0917 - of one demo
    running: stack.Stack,
    runner: Runner,
    agent: Agent,
    config: stack.StackConfig,
    prompt: Prompt,
    console: Console,
) -> Request | None:
    """One more cold start, from a snapshot; None where this machine cannot."""
    with _step(console, "one more cold start, restored from a snapshot") as done:
        if (missing := snapshot.why_not(config.env)) is not None:
            done(f"left out: {missing}")
            return None
        done.progress("back to zero")
        await runner.until(runner.services, hot=False, timeout_s=300)
        done.progress("the snapshot is written")
        if not await snapshot.write_snapshot(running, runner, agent, Path(config.env[CACHE_DIR_VARIABLE])):
            done("left out: no snapshot was written; the log of the model's stage says why")
            return None
        done.progress("from zero")
        request = await snapshot.restored_request(runner, prompt)
        done(request.error or f"first token after {request.ttft_s:.1f} s")
    return request


async def _survived(
    running: stack.Stack, agent: Agent, prompt: Prompt, console: Console
) -> survival.Survival | None:
    """A durable run whose replica is killed; None where its store's library is not installed."""
    with _step(console, "a durable run whose replica is killed (SIGKILL) in the middle") as done:
        if (missing := survival.why_not()) is not None:
            done(f"left out: {missing}")
            return None
        made = await survival.survive(running.cluster, running.gateway_url, agent, prompt, done.progress)
        steps = ", ".join(made.steps)
        done(
            f"killed after {made.killed_after}; the next replica went on, "
            f"and the run ended once, after {made.seconds:.1f} s: {steps}"
        )
        return made


async def _event(
    running: stack.Stack, agent: Agent, config: stack.StackConfig, prompt: Prompt, console: Console
) -> EventMeasurement | None:
    """One question through the agent's queue, from zero; None where the agent has no queue with replies."""
    with _step(console, "an event from a queue, from zero") as done:
        sqs = config.sqs or embedded_sqs(config.state_dir)
        made = await send_one(running.cluster, sqs, agent, prompt.prompt, done.progress)
        if made is None:
            done("left out: the agent has no trigger with a reply")
            return None
        done(
            f"message in, {made.warmth} start, answer out after {made.answered_s:.1f} s, "
            f"acknowledged after {made.acknowledged_s:.1f} s"
        )
        return made


async def _farewell(
    config: DemoConfig, console: Console, gateway: str, kept: Path, curl: Callable[[str], str]
) -> None:
    console.print(f"\nreport: {config.build / 'report.json'}", highlight=False)
    if config.keep:
        console.print("It keeps running until Ctrl-C. Try:")
        console.print("  " + curl(gateway), soft_wrap=True, highlight=False)
        with up.stop_on_signal() as stop:
            await stop.wait()
        return
    console.print("To keep it running, and to call it:")
    console.print(f"  .venv/bin/pilotlight up -f {kept}", highlight=False)
    console.print("  " + curl("http://localhost:8080"), soft_wrap=True, highlight=False)


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a JSON-lines file.

    Raises:
        DemoError: naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DemoError(f"{path}: {error.strerror}") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(Prompt(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DemoError(f'{path}:{number}: must be {{"id": "...", "prompt": "..."}}: {error}') from error
    if not prompts:
        raise DemoError(f"{path}: has no prompts")
    return prompts


def write_kept_agent(config: DemoConfig, model_uri: str) -> Path:
    """A copy of the agent file that needs no S3 endpoint, for `pilotlight up -f`."""
    document = yaml.safe_load(config.agent.read_text(encoding="utf-8"))
    document["spec"]["model"]["uri"] = model_uri
    path = config.build / "agent.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def price() -> Price:
    """The demo's GPU price, from the price list that ships with the controller."""
    prices = packaged_prices()
    found = prices.of(GPU)
    if found is None:
        raise DemoError(f"the price list has no {GPU}")
    return Price(GPU, float(found.hourly), prices.currency, f"{found.source}, {found.date}")


def _clear(build: Path) -> None:
    """Remove what an earlier demo left, so that every cold start is cold."""
    for name in ("state", "cache", "model", "month"):
        shutil.rmtree(build / name, ignore_errors=True)
    try:
        build.mkdir(parents=True, exist_ok=True)
        (build / "report.json").unlink(missing_ok=True)
    except OSError as error:
        raise DemoError(f"{build}: cannot be written: {error.strerror}") from error


class _Done:
    """What a step calls when it has something to say."""

    def __init__(self, status: Any, title: str) -> None:
        self._status = status
        self._title = title
        self.detail = ""

    def __call__(self, detail: str) -> None:
        self.detail = detail

    def progress(self, text: str) -> None:
        self._status.update(f"{self._title}: {text}")


@contextmanager
def _step(console: Console, title: str) -> Iterator[_Done]:
    began = perf_counter()
    with console.status(title) as status:
        done = _Done(status, title)
        if not console.is_terminal:
            console.print(f"  {title} ...", highlight=False)
        yield done
    console.print(f"[green]✓[/] {title} ({perf_counter() - began:.1f} s)", highlight=False)
    if done.detail:
        console.print(f"  [dim]{done.detail}[/]", highlight=False)
