"""Apply an agent's objects to any Knative and wait until they are ready."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from knative import env_vars, feature_flags
from knative.client.cluster import Cluster
from knative.client.errors import ClusterError, Forbidden, Invalid, NotFound
from knative.client.resources import CONFIG_MAP, SECRET, SERVICE, WARM_POOL
from knative.labels import AGENT_LABEL
from pilotlight import keys, rollouts
from pilotlight.agent_resources import LOCAL, resource_of
from pilotlight.compile_access import STAGE_TOKEN_VOLUME, stage_token_secret
from pilotlight.compile_pod import NO_IMAGE
from pilotlight.doctor.serving_checks import SERVING_NAMESPACE
from pilotlight.doctor.serving_checks import patch as flags_patch
from pilotlight.readiness import Readiness, ready_condition

FIELD_MANAGER = "pilotlight-deploy"


@dataclass(frozen=True)
class Applied:
    """What applying one object did."""

    kind: str
    name: str
    namespace: str
    outcome: str
    """`created`, `configured` or `unchanged`."""


class DeployError(RuntimeError):
    """A Service did not become ready; the text says which and why."""


async def check(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> None:
    """Ask the server whether it would take every object; nothing is written.

    Raises:
        DeployError: an object names no image, or does not say who may call, and the server is not the local
            platform, which needs neither.
        ClusterError: the server refuses an object.
    """
    local = await is_local_platform(cluster)
    without = [obj["metadata"]["name"] for obj in objects if names_no_image(obj)]
    if without and not local:
        raise DeployError(
            f"spec.image is required on a cluster, for {', '.join(without)}: "
            "build one (docker build --target functions -t REGISTRY/NAME:TAG .), push it, and name it"
        )
    without = [obj["metadata"]["name"] for obj in objects if says_not_who_may_call(obj)]
    if without and not local:
        raise DeployError(
            f"spec.auth is required on a cluster, for {', '.join(without)}: "
            "write `auth: keys` (pilotlight key create NAME makes one), auth with type jwt, "
            "or `auth: none` to let everyone call who reaches the URL"
        )
    for obj in _for_server(objects, local=local):
        try:
            await cluster.apply(resource_of(obj), obj, field_manager=FIELD_MANAGER, force=True, dry_run=True)
        except (Invalid, Forbidden) as error:  # an admission webhook denies with 400 or 403
            if missing := await _missing_flags(cluster, obj):
                name = f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
                raise DeployError(f"{name}: {error}\n{missing}") from error
            raise


async def _missing_flags(cluster: Cluster, obj: dict[str, Any]) -> str:
    """Which feature flags a refused Service needs that are not set, and the command that sets them."""
    if obj["kind"] != SERVICE.kind:
        return ""
    spec = obj["spec"]["template"]["spec"]
    try:
        found = await cluster.get(CONFIG_MAP, feature_flags.CONFIG_MAP_NAME, SERVING_NAMESPACE)
        missing = feature_flags.missing(spec, found.get("data") or {})
    except ClusterError:
        missing = feature_flags.needed(spec)  # which of them are set cannot be read
    if not missing:
        return ""
    listed = ", ".join(f"{feature_flags.PREFIX}{flag} for {field}" for flag, field in missing.items())
    return f"  needs the feature flags {listed}\n  fix: {flags_patch(missing)}"


def _rolled_out(objects: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The Services that have a rollout, whose next Revision must get no traffic by itself."""
    return [
        (obj["spec"]["target"], obj["metadata"]["namespace"])
        for obj in objects
        if obj["kind"] == WARM_POOL.kind and obj["spec"].get("rollout") is not None
    ]


def says_not_who_may_call(obj: dict[str, Any]) -> bool:
    """Whether a Service runs a stage that does not know whose requests to answer."""
    if obj["kind"] != SERVICE.kind:
        return False
    return any(
        item.get("command") == ["python", "-m", "functions"]
        and not any(entry["name"] == env_vars.AUTH for entry in item.get("env", ()))
        for item in obj["spec"]["template"]["spec"]["containers"]
    )


def lets_everyone_call(obj: dict[str, Any]) -> bool:
    """Whether a Service runs a stage that answers anyone, because its agent file says so."""
    if obj["kind"] != SERVICE.kind:
        return False
    return any(
        entry["name"] == env_vars.AUTH and entry.get("value") == "none"
        for item in obj["spec"]["template"]["spec"]["containers"]
        for entry in item.get("env", ())
    )


def _for_server(objects: Sequence[dict[str, Any]], *, local: bool) -> list[dict[str, Any]]:
    """The objects without those that one machine has no use for."""
    return [obj for obj in objects if not local or resource_of(obj) in LOCAL]


async def _ensure_stage_tokens(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> list[Applied]:
    """Make the Secrets with the tokens of agents' stages that are not there yet."""
    agents = {
        (obj["metadata"]["labels"][AGENT_LABEL], obj["metadata"]["namespace"])
        for obj in objects
        if obj["kind"] == SERVICE.kind and _has_stage_token(obj)
    }
    return [
        Applied("Secret", stage_token_secret(agent), namespace, "created")
        for agent, namespace in sorted(agents)
        if await keys.ensure_stage_token(cluster, agent, namespace)
    ]


def _has_stage_token(service: dict[str, Any]) -> bool:
    volumes = service["spec"]["template"]["spec"].get("volumes", ())
    return any(volume["name"] == STAGE_TOKEN_VOLUME for volume in volumes)


def names_no_image(obj: dict[str, Any]) -> bool:
    """Whether a Service has a container without an image of its own."""
    if obj["kind"] != SERVICE.kind:
        return False
    return any(item["image"] == NO_IMAGE for item in obj["spec"]["template"]["spec"]["containers"])


async def is_local_platform(cluster: Cluster) -> bool:
    """Whether the server is the platform of `pilotlight up`."""
    version = await cluster.version()
    return "pilotlight" in str(version.get("gitVersion"))


async def apply(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> list[Applied]:
    """Apply all or nothing: every object is tried with a dry run before the first is written."""
    await check(cluster, objects)
    done = await _ensure_stage_tokens(cluster, objects)
    for name, namespace in _rolled_out(objects):
        if await rollouts.pin(cluster, name, namespace):
            done.append(Applied("Traffic", name, namespace, "configured"))
    for obj in _for_server(objects, local=await is_local_platform(cluster)):
        meta = obj["metadata"]
        resource = resource_of(obj)
        try:
            before: dict[str, Any] | None = await cluster.get(resource, meta["name"], meta["namespace"])
        except NotFound:
            before = None
        after = await cluster.apply(resource, obj, field_manager=FIELD_MANAGER, force=True)
        if before is None:
            outcome = "created"
        elif before["metadata"].get("generation") == after["metadata"].get("generation"):
            outcome = "unchanged"
        else:
            outcome = "configured"
        done.append(Applied(obj["kind"], meta["name"], meta["namespace"], outcome))
    return done


async def delete(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> list[str]:
    """Delete what exists of these objects, last ones first; the names of what was there."""
    gone = []
    for obj in reversed(objects):
        meta = obj["metadata"]
        try:
            await cluster.delete(resource_of(obj), meta["name"], meta["namespace"])
        except NotFound:
            continue
        gone.append(f"{obj['kind'].lower()}/{meta['name']}")
    for agent, namespace in sorted(
        {(obj["metadata"]["labels"][AGENT_LABEL], obj["metadata"]["namespace"])
         for obj in objects if obj["kind"] == SERVICE.kind}
    ):  # fmt: skip
        try:
            await cluster.delete(SECRET, stage_token_secret(agent), namespace)
        except NotFound:
            continue
        gone.append(f"secret/{stage_token_secret(agent)}")
    return gone


async def readiness(cluster: Cluster, name: str, namespace: str) -> Readiness:
    """The Ready condition of a Service as it stands."""
    return ready_condition(await cluster.get(SERVICE, name, namespace))


async def watch_until_ready(
    cluster: Cluster, names: Sequence[str], namespace: str, *, timeout_s: float, poll_s: float = 0.2
) -> AsyncIterator[Readiness]:
    """Yield each Service's condition as it changes; ends when all are ready.

    Raises:
        DeployError: one of them failed, or time ran out.
    """
    seen: dict[str, Readiness] = {}
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        for name in names:
            now = await readiness(cluster, name, namespace)
            if seen.get(name) != now:
                seen[name] = now
                yield now
            if now.failed:
                raise DeployError(
                    f"{namespace}/{name} is not ready: {now.reason}: {now.message}\n"
                    f"  the log: pilotlight logs {namespace}/{name}"
                )
        if all(seen[name].status == "True" for name in names):
            return
        if asyncio.get_running_loop().time() > deadline:
            waiting = ", ".join(
                f"{name} ({r.reason or r.status})" for name, r in seen.items() if r.status != "True"
            )
            raise DeployError(f"not ready after {timeout_s:g} s: {waiting}")
        await asyncio.sleep(poll_s)
