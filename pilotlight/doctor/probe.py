"""Reads the model as its pods would: by a short Job on a cluster, by this process on one machine."""

import asyncio
import copy
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError, Invalid, NotFound, Unavailable
from knative.client.resources import JOB, POD
from pilotlight.agent import Agent
from pilotlight.compile import compile_agent
from pilotlight.doctor.findings import Finding, Level, Unknown, ok, unknown
from pilotlight.doctor.needs import StageNeeds
from pilotlight.warm_weights.fill_state import Fill, State
from pilotlight.warm_weights.jobs import WarmError, WarmTarget, warm_job
from pilotlight.warm_weights.on_a_cluster import follow
from weights import check_access
from weights.cache.location import CACHE_DIR_VARIABLE

LONGEST_S = 180.0
"""Seconds until a probe that has not ended is given up; its image may have to be pulled first."""
_KEPT_S = 300


async def probe(
    cluster: Cluster | None,
    agents: Sequence[Agent],
    needs: Sequence[StageNeeds],
    *,
    tell: Callable[[str], None],
    timeout_s: float = LONGEST_S,
) -> list[Finding]:
    """Whether each agent's model can be read with its pods' own credentials.

    Args:
        cluster: where its pods would run; None for this machine.
        agents: whose models are read.
        needs: of their stages.
        tell: takes a line about what is waited for.
        timeout_s: for one agent.
    """
    found: list[Finding] = []
    readers = {(need.agent, need.model_uri): need for need in reversed(needs) if need.reads_model}
    for (position, uri), reader in reversed(readers.items()):
        if uri is None:
            continue
        agent = agents[position]
        if cluster is None:
            lines: list[dict[str, Any]] = []
            await asyncio.to_thread(check_access.check, uri, os.environ, lines.append)
            found += _judge(reader, lines, None)
        else:
            tell(f"A pod reads {uri} (at most {timeout_s:g} s) ...")
            found += await _by_job(cluster, agent, reader, uri, tell, timeout_s)
    return found


async def _by_job(  # noqa: PLR0917  # what a probe needs
    cluster: Cluster,
    agent: Agent,
    need: StageNeeds,
    uri: str,
    tell: Callable[[str], None],
    timeout_s: float,
) -> list[Finding]:
    job = probe_job(agent, need, uri)
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    try:
        await cluster.create(JOB, job)
    except ClusterError as error:
        return [unknown("s3", f"{uri} from a pod", Unknown(f"the Job cannot be made: {error}"))]
    try:
        (fill,) = await follow(cluster, [job], lambda now: _show(now, tell), timeout_s=timeout_s, poll_s=0.5)
        return _judge(need, _parse(await _log(cluster, name, namespace)), fill)
    except (ClusterError, WarmError) as error:
        return [unknown("s3", f"{uri} from a pod", Unknown(str(error)))]
    finally:
        await _remove(cluster, name, namespace)


def probe_job(agent: Agent, need: StageNeeds, uri: str) -> dict[str, Any]:
    """A Job whose pod is that of the stage, without its GPU and placement, and reads the model's headers."""
    service = next(obj for obj in compile_agent(agent) if obj["metadata"]["name"] == need.service)
    env = {item["name"]: item.get("value") for item in need.spec["containers"][0].get("env") or ()}
    job = copy.deepcopy(warm_job(WarmTarget(service, uri, None, env.get(CACHE_DIR_VARIABLE)), anywhere=True))
    job["metadata"]["name"] = f"probe-{need.service[:40].rstrip('-')}-{secrets.token_hex(3)}"
    job["spec"] |= {
        "backoffLimit": 0,
        "activeDeadlineSeconds": int(LONGEST_S),
        "ttlSecondsAfterFinished": _KEPT_S,
    }
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container |= {"name": "check-access", "command": ["python", "-m", "weights.check_access", uri]}
    return job


def _show(fill: Fill, tell: Callable[[str], None]) -> None:
    """Say what the pod waits for; how it ends is in the report."""
    if not fill.ended and fill.detail:
        tell(f"  {fill.name}: {fill.detail}")


async def _log(cluster: Cluster, job: str, namespace: str) -> list[str]:
    pods = await cluster.list(POD, namespace, label_selector=f"batch.kubernetes.io/job-name={job}")
    try:
        return await cluster.pod_log(pods[0]["metadata"]["name"], namespace) if pods else []
    except (Invalid, NotFound, Unavailable):
        return []  # its container has not started, its pod is gone, or its kubelet does not answer


async def _remove(cluster: Cluster, name: str, namespace: str) -> None:
    try:
        await cluster.delete(JOB, name, namespace)
    except NotFound:
        return
    except ClusterError:
        return  # it removes itself after a while


def _parse(lines: Iterable[str]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _judge(need: StageNeeds, lines: Sequence[Mapping[str, Any]], fill: Fill | None) -> list[Finding]:
    """The findings from what the program wrote, and from what became of its Job."""
    found, where = [], "this machine" if fill is None else "a pod"
    by_kind = {str(line.get("kind")): line for line in lines}
    if (cache := by_kind.get("cache")) is not None:
        if cache.get("problem") is None:
            found.append(ok("cache", f"{cache.get('path')} can be written from {where}"))
        else:
            found.append(
                Finding(
                    Level.ERROR,
                    "cache",
                    f"{need.service} cannot write {cache.get('path')} from {where}: {cache['problem']}",
                    "an access point with uid 10001, or podSecurityContext: {fsGroup: 10001}",
                    need.field("cache"),
                    need.agent,
                )
            )
    if (done := by_kind.get("done")) is not None:
        text = f"the model was listed from {where} in {done.get('seconds')} s: {done.get('files')} files"
        found.append(ok("s3", f"{text}, {float(done.get('total_bytes') or 0) / 1e9:.1f} GB"))
        return found
    failed = by_kind.get("failed")
    message = str(failed.get("message")) if failed is not None else _why_not(fill)
    ended = failed is not None or (fill is not None and fill.state is State.FAILED)
    found.append(
        Finding(
            Level.ERROR if ended else Level.UNKNOWN,
            "s3",
            f"{need.service} cannot read its model from {where}: {message}",
            "serviceAccountName with a role for the bucket, or s3.credentialsSecret",
            ("spec", "model", "uri"),
            need.agent,
        )
    )
    return found


def _why_not(fill: Fill | None) -> str:
    if fill is None:
        return "nothing was written"
    return fill.detail or "its Job did not end in time"
