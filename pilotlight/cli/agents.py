"""`pilotlight render | deploy | delete | invoke`: an agent file, to a Knative and back."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from knative.client.cluster import Cluster
from knative.client.resources import SERVICE
from pilotlight import deploy as deploying
from pilotlight import invoke as invoking
from pilotlight import paths
from pilotlight import purge as purging
from pilotlight.agent import Agent, AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.cli.options import Kubeconfig
from pilotlight.compile import compile_agent, compile_for_cluster
from pilotlight.compile_dispatcher import dispatcher_objects
from pilotlight.compile_eventing import eventing_objects, limits_of
from pilotlight.compile_runs import unfit_for_a_cluster
from pilotlight.doctor.findings import Level
from pilotlight.doctor.report import has_errors
from pilotlight.doctor.run import Agents, check_cluster, check_models_here
from pilotlight.gateway import default_gateway
from pilotlight.kubeconfig import connect
from pilotlight.local_modules import on_this_machine
from pilotlight.mesh.objects import mesh_notes
from pilotlight.mesh_settings import MESH_TYPES
from pilotlight.service_urls import reachable_url
from weights.sources.address import absolute_uri

app = typer.Typer(add_completion=False)

AgentFile = Annotated[
    list[Path],
    typer.Option("--file", "-f", help="Agent file; may be given more than once.", show_default=False),
]
ModelUri = Annotated[
    str | None,
    typer.Option("--model", metavar="URI", help="Use this model instead of the file's spec.model.uri."),
]


MeshOption = Annotated[
    str | None,
    typer.Option(
        "--mesh",
        metavar="|".join(MESH_TYPES),
        help="The cluster's service mesh, instead of the file's spec.mesh.",
    ),
]


def load(paths: list[Path], model: str | None = None, mesh: str | None = None) -> list[Agent]:
    """Read the agent files, with the model replaced where one is named.

    A relative path of a model is relative to its agent file; that of `--model`, to the folder in which the
    command runs.
    """
    agents = [load_agent(path) for path in paths]
    if mesh is not None:
        known = next((item for item in MESH_TYPES if item == mesh), None)
        if known is None:
            raise typer.BadParameter(f"'{mesh}' must be one of {', '.join(MESH_TYPES)}", param_hint="--mesh")
        agents = [agent.with_mesh(known) for agent in agents]
    if model is None:
        return agents
    checked = [agent.with_model(model) for agent in agents]  # names what was given if it is no address
    return [agent.with_model(absolute_uri(model, Path.cwd())) for agent in checked]


def compile_all(agents: list[Agent]) -> list[dict[str, Any]]:
    """The objects of all agents, in order."""
    # Policies and accounts first: no pod starts before what guards it is there.
    return [obj for agent in agents for obj in (*compile_for_cluster(agent), *compile_agent(agent))]


@app.command()
def render(
    file: AgentFile,
    *,
    model: ModelUri = None,
    mesh: MeshOption = None,
    dispatchers: Annotated[
        bool,
        typer.Option(
            "--dispatchers",
            help="Only what delivers the events on a cluster: Deployments with KEDA, sources of Eventing.",
        ),
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="yaml or json.")] = "yaml",
) -> None:
    """Print the Knative Services, WarmPools and Triggers that an agent file compiles to."""
    agents = load(file, model, mesh)
    _refuse_models_that_cannot_work(Agents(agents, file))
    objects = _compile_dispatchers(agents) if dispatchers else compile_all(agents)
    _note_what_the_mesh_leaves(agents)
    if not dispatchers:
        _refuse_modules_without_image(agents)
    if not dispatchers and any(map(deploying.names_no_image, objects)):
        typer.echo("note: spec.image is not set, so these objects run on the local platform only", err=True)
    if any(map(deploying.says_not_who_may_call, objects)):
        typer.echo(
            "note: spec.auth is not set, so these objects run on the local platform only, where anyone who "
            "reaches the gateway may call; on a cluster the stages refuse to start",
            err=True,
        )
    for reason in _local_only(agents):
        typer.echo(f"note: {reason}", err=True)
    _warn_of_open_stages(objects)
    if output == "yaml":
        typer.echo(yaml.safe_dump_all(objects, sort_keys=False, width=110), nl=False)
    elif output == "json":
        typer.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2))
    else:
        raise typer.BadParameter(f"'{output}' must be yaml or json", param_hint="--output")


def _refuse_models_that_cannot_work(checked: Agents) -> None:
    """Say what is known here of models and their options: of those in folders, and of options alone.

    Raises:
        AgentFileError: vLLM would refuse a model.
    """
    lines = asyncio.run(check_models_here(checked))
    for line in lines:
        if line.finding.level is Level.WARNING:
            typer.echo(line.text, err=True)
    if has_errors(lines):
        errors = [line.message for line in lines if line.finding.level is Level.ERROR]
        raise AgentFileError("\n".join(errors))


def _compile_dispatchers(agents: list[Agent]) -> list[dict[str, Any]]:
    """What delivers the agents' events; what of it is not usable, or does less, is said."""
    objects = [obj for agent in agents for obj in (*dispatcher_objects(agent), *eventing_objects(agent))]
    for agent in agents:
        own = [trigger for trigger in agent.spec.triggers if trigger.delivery == "dispatcher"]
        if own and agent.spec.dispatcher.image is None:
            typer.echo("note: spec.dispatcher.image is not set: docker build --target triggers", err=True)
        for trigger in agent.spec.triggers:
            limits = limits_of(trigger) if trigger.delivery == "eventing" else []
            if limits:
                typer.echo(
                    f"note: {trigger.name}: delivery eventing does without {', '.join(limits)}", err=True
                )
    return objects


def _refuse_modules_without_image(agents: list[Agent]) -> None:
    """A cluster finds a module in the image alone, so these objects could run nowhere."""
    if without := [name for agent in agents for name in agent.modules_without_image]:
        raise AgentFileError(
            f"image is not set for {', '.join(without)}: a stage with a module needs an image that has it "
            "(spec.image, or image of the stage): docker build with the Dockerfile of `pilotlight init`"
        )


def _local_only(agents: list[Agent]) -> list[str]:
    """What of the agents works on one machine alone."""
    return [reason for agent in agents if (reason := unfit_for_a_cluster(agent)) is not None]


def _note_what_the_mesh_leaves(agents: list[Agent]) -> None:
    for note in dict.fromkeys(note for agent in agents for note in mesh_notes(agent)):
        typer.echo(f"note: {note}", err=True)


def _warn_of_open_stages(objects: list[dict[str, Any]]) -> None:
    if opened := [obj["metadata"]["name"] for obj in objects if deploying.lets_everyone_call(obj)]:
        typer.echo(f"warning: auth: none lets everyone call {', '.join(opened)} who reaches them", err=True)


@app.command()
def deploy(
    file: AgentFile,
    *,
    model: ModelUri = None,
    mesh: MeshOption = None,
    kubeconfig: Kubeconfig = None,
    wait: Annotated[bool, typer.Option(help="Wait until every Service is ready.")] = True,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait.")] = 600,
    dry_run: Annotated[bool, typer.Option(help="Check with the server, change nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Apply even what `pilotlight doctor` calls an error.")
    ] = False,
) -> None:
    """Apply an agent file to a cluster, or to the platform on this machine."""
    agents = load(file, model, mesh)
    objects = compile_all(agents)
    _note_what_the_mesh_leaves(agents)
    _warn_of_open_stages(objects)

    async def run() -> None:
        async with connect(kubeconfig) as cluster:
            local = await deploying.is_local_platform(cluster)
            if (reasons := _local_only(agents)) and not local:
                raise deploying.DeployError("\n".join(reasons))
            applied = on_this_machine(objects, agents) if local else objects
            await _refuse_what_cannot_work(cluster, Agents(agents, file), force=force)
            if dry_run:
                await deploying.check(cluster, applied)
                typer.echo(f"ok: {len(objects)} objects would be accepted")
                return
            for done in await deploying.apply(cluster, applied):
                typer.echo(f"{done.kind.lower()}/{done.name} {done.outcome}")
            if wait:
                await _wait(cluster, agents, timeout)

    asyncio.run(run())


async def _refuse_what_cannot_work(cluster: Cluster, checked: Agents, *, force: bool) -> None:
    """Say what the checks of `doctor` warn of; an error ends the deploy before anything is written."""
    lines = await check_cluster(cluster, checked)
    for line in lines:
        shown = {Level.WARNING, Level.UNKNOWN} | ({Level.ERROR} if force else set())
        if line.finding.level in shown:
            typer.echo(line.text, err=True)
    if has_errors(lines) and not force:
        errors = [line.message for line in lines if line.finding.level is Level.ERROR]
        raise deploying.DeployError(
            "\n".join([*errors, "nothing was applied; --force applies it nevertheless"])
        )


async def _wait(cluster: Cluster, agents: list[Agent], timeout_s: float) -> None:
    for agent in agents:
        names = [agent.service_name(stage) for stage in agent.spec.services]
        namespace = agent.metadata.namespace
        async for now in deploying.watch_until_ready(cluster, names, namespace, timeout_s=timeout_s):
            if now.failed:
                continue  # the error says so
            detail = f" {now.reason} {now.message}".rstrip()
            typer.echo(f"  {now.name}: {'ready' if now.status == 'True' else 'waiting'}{detail}", err=True)
        entry = await cluster.get(SERVICE, agent.service_name(agent.entry()), namespace)
        if url := reachable_url(entry):
            path = "" if agent.entry().is_own_image else "invoke"
            typer.echo(f"{agent.metadata.name} answers at {url.rstrip('/')}/{path}")


@app.command()
def delete(
    file: AgentFile,
    *,
    kubeconfig: Kubeconfig = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge", help="Also floors, finalizers, Jobs, and the model in the cache; asks first."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what --purge would remove.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds for the model's removal.")] = 600,
    state: Annotated[
        Path | None,
        typer.Option("--state", envvar="PILOTLIGHT_STATE", help="State folder of the local platform."),
    ] = None,
) -> None:
    """Delete an agent's Services, WarmPools and Triggers."""
    agents = load(file)
    if (yes or dry_run) and not purge:
        raise typer.BadParameter("is for --purge", param_hint="--dry-run" if dry_run else "--yes")

    async def run() -> None:
        async with connect(kubeconfig) as cluster:
            if not purge:
                gone = await deploying.delete(cluster, compile_all(agents))
                typer.echo("\n".join(f"{name} deleted" for name in gone) or "nothing of this agent was there")
                return
            folder = (state or paths.state_dir()).expanduser().absolute()
            plans = [
                (await purging.plan(cluster, agent, objects, state_dir=folder), objects)
                for agent in agents
                for objects in [compile_all([agent])]
            ]
            typer.echo("\n".join(line for found, _ in plans for line in found.lines()))
            if dry_run:
                return
            if not yes:
                if not sys.stdin.isatty():
                    raise typer.BadParameter("nobody can be asked here: say --yes", param_hint="--purge")
                typer.confirm("Remove all of it?", abort=True)
            for found, objects in plans:
                async for line in purging.purge(cluster, found, objects, timeout_s=timeout):
                    typer.echo(line)

    asyncio.run(run())


def _show_progress(text: str) -> None:
    """Replace the line before: it is what the request waits for."""
    typer.echo(f"\r\x1b[K{text}", nl=False, err=True)


@app.command()
def invoke(
    service: Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a Service.")],
    text: Annotated[
        str | None, typer.Argument(help="The input; '-' or nothing reads standard input.")
    ] = None,
    *,
    url: Annotated[
        str | None, typer.Option(help="The gateway.", show_default="the running platform's")
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", envvar="PILOTLIGHT_STATE", help="State folder of the platform.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    stream: Annotated[bool, typer.Option(help="Print tokens as they come.")] = True,
    key: Annotated[
        str | None, typer.Option(envvar="PILOTLIGHT_KEY", help="A key, where the Service needs one.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds, cold start included.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole reply.")] = False,
) -> None:
    """Call a function URL and print what it answers."""
    if "://" in service:
        raise typer.BadParameter(
            f"{service!r} must be NAME or NAMESPACE/NAME of a Service; --url names another gateway",
            param_hint="SERVICE",
        )
    prompt = sys.stdin.read() if text in {None, "-"} else text
    namespace, _, name = service.rpartition("/")
    parameters = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    call = invoking.Call(
        url=f"{(url or default_gateway(state)).rstrip('/')}/{namespace or 'default'}/{name}/invoke",
        prompt=prompt or "",
        parameters={key: value for key, value in parameters.items() if value is not None},
        timeout_s=timeout,
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
    )

    async def run() -> invoking.InvokeResult:
        def show(piece: str) -> None:
            if not as_json:
                typer.echo(piece, nl=False)

        async with invoking.client() as session:
            return await invoking.stream(
                session,
                call,
                on_text=show if stream else None,
                on_progress=_show_progress if sys.stderr.isatty() else None,
            )

    answer = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(answer.reply, indent=2, ensure_ascii=False))
    elif not stream:
        typer.echo(answer.text)
    else:
        typer.echo()
    typer.echo(f"first token {answer.ttft_s:.2f} s, all {answer.e2e_s:.2f} s", err=True)
