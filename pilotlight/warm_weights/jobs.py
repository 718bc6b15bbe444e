"""The Jobs that fill an agent's cache: the pod of the stage, without its GPU (pure)."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knative.client.resources import JOB
from knative.env_vars import PREFIX
from knative.labels import AGENT_LABEL, WARMS_LABEL
from pilotlight.agent import Agent
from pilotlight.compile import compile_agent
from pilotlight.compile_access import KEYS_VOLUME, STAGE_TOKEN_VOLUME
from pilotlight.compile_pod import SHM_VOLUME
from pilotlight.mesh.pods import OUTSIDE_ANNOTATIONS, OUTSIDE_LABELS
from pilotlight.node_placement import misfit
from pilotlight.stage_spec import Kind, StageSpec
from weights.cache.location import CACHE_DIR_VARIABLE

_PLACEMENT = ("nodeSelector", "affinity", "tolerations")
_ACCOUNT = ("serviceAccountName", "automountServiceAccountToken", "imagePullSecrets", "securityContext")
_RESOURCES = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
"""A download keeps at most 64 ranges of 8 MiB in memory."""
_VISIBLE = "NVIDIA_VISIBLE_DEVICES"
_RETRIES = 2
_REMOVAL_RETRIES = 5
"""Ten, twenty, ... seconds apart: replicas that end have the files for as long as requests are in flight."""
_DEADLINE_S = 6 * 3600
"""After that a Job that no node takes, or whose download hangs, has failed."""
_KEPT_S = 3600
"""How long a Job that has ended can be looked at."""


class WarmError(RuntimeError):
    """The cache cannot be filled, or was not; the text says why."""


@dataclass(frozen=True)
class WarmTarget:
    """What is to be filled.

    Attributes:
        service: the rendered Service of the stage that reads the cache.
        uri: the model's address.
        volume: the source of the volume that the cache is on, as Kubernetes writes it; None without one.
        cache_dir: the cache's folder in the container; None for the default of the user.
    """

    service: Mapping[str, Any]
    uri: str
    volume: Mapping[str, Any] | None
    cache_dir: str | None

    @property
    def name(self) -> str:
        """Of the Service."""
        return str(self.service["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Of the Service."""
        return str(self.service["metadata"]["namespace"])

    @property
    def pod(self) -> Mapping[str, Any]:
        """The spec of the Service's pods."""
        spec: Mapping[str, Any] = self.service["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Mapping[str, Any]:
        """The Service's container."""
        container: Mapping[str, Any] = self.pod["containers"][0]
        return container

    @property
    def claim(self) -> str | None:
        """The name of the claim that the cache is on."""
        claim = (self.volume or {}).get("persistentVolumeClaim")
        return None if claim is None else str(claim["claimName"])


def warm_target(agent: Agent, stage_name: str | None = None) -> WarmTarget:
    """The cache of an agent's model, and who reads it.

    Args:
        agent: as checked.
        stage_name: of the stage that loads the model; None for the only one.

    Raises:
        WarmError: no stage loads a model, several do and none is named, the model is not copied, or its cache
            ends with the pod.
    """
    stage = _reader(agent, stage_name)
    uri = agent.spec.model_uri(stage) or ""
    if not uri.startswith("s3://"):
        raise WarmError(
            f"spec.model.uri = {uri!r}: a model on a file system is read in place, so no cache is filled"
        )
    name = agent.service_name(stage)
    service = next(obj for obj in compile_agent(agent) if obj["metadata"]["name"] == name)
    pod = service["spec"]["template"]["spec"]
    env = {item["name"]: item.get("value") for item in pod["containers"][0].get("env") or ()}
    cache_dir = env.get(CACHE_DIR_VARIABLE)
    volume = None
    mounts = pod["containers"][0].get("volumeMounts") or ()
    for mount in sorted(mounts, key=lambda item: len(item["mountPath"]), reverse=True):
        if cache_dir is not None and f"{cache_dir}/".startswith(f"{mount['mountPath']}/"):
            named = next(item for item in pod["volumes"] if item["name"] == mount["name"])
            volume = {key: value for key, value in named.items() if key != "name"}
            break
    if volume is not None and "persistentVolumeClaim" not in volume:
        raise WarmError(
            f"spec.cache of stage {stage.name}: {next(iter(volume))} cannot be filled ahead; "
            "write persistentVolumeClaim"
        )
    return WarmTarget(service, uri, volume, cache_dir)


def loading_stages(agent: Agent) -> list[StageSpec]:
    """The stages that load weights."""
    return [
        stage
        for stage in agent.spec.services
        if stage.kind is Kind.GENERATE and stage.engine_type != "openai"
    ]


def _reader(agent: Agent, name: str | None) -> StageSpec:
    loading = loading_stages(agent)
    names = ", ".join(stage.name for stage in loading)
    if not loading:
        raise WarmError(f"agent {agent.metadata.name} has no stage of kind generate that loads weights")
    if name is not None:
        named = [stage for stage in loading if stage.name == name]
        if not named:
            raise WarmError(f"--stage {name}: must be a stage that loads weights (there: {names})")
        return named[0]
    if len({agent.spec.model_uri(stage) for stage in loading}) > 1:
        raise WarmError(f"several stages of agent {agent.metadata.name} load models: --stage with {names}")
    return loading[0]


def nodes_of(target: WarmTarget, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the nodes on which the stage's pods may run.

    Raises:
        WarmError: there is none; the text says why not.
    """
    reasons = {node["metadata"]["name"]: misfit(node, target.pod) for node in nodes}
    fitting = sorted(name for name, reason in reasons.items() if reason is None)
    if not fitting:
        why = "; ".join(f"{name} {reason}" for name, reason in sorted(reasons.items())[:5])
        raise WarmError(
            f"no node takes the pods of {target.name}: {why or 'there are no nodes'}. "
            "Nodes that are started on demand are filled once they are there, or with --node NAME"
        )
    return fitting


def warm_job(
    target: WarmTarget, *, node: str | None = None, anywhere: bool = False, remove: bool = False
) -> dict[str, Any]:
    """A Job that fills the cache.

    Its name is made of what it does, so that the same Job is not made twice.

    Args:
        target: from `warm_target`.
        node: the only node that it may run on; None to place it as the stage's pods.
        anywhere: leave the stage's placement out, for a volume that every node can mount.
        remove: take the model out of the cache instead, once no replica uses it any more.
    """
    template = target.service["spec"]["template"]
    pod: dict[str, Any] = {
        key: copy.deepcopy(target.pod[key]) for key in (*_ACCOUNT, *_PLACEMENT) if key in target.pod
    }
    if node is not None or anywhere:
        for key in ("nodeSelector", "affinity") if node is not None else _PLACEMENT:
            pod.pop(key, None)
    if node is not None:
        name_is = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [name_is]}}
        pod["affinity"] = {"nodeAffinity": required}
    mounts = [mount for mount in target.container.get("volumeMounts") or () if _is_needed(mount["name"])]
    mounted = {mount["name"] for mount in mounts}
    pod["restartPolicy"] = "Never"
    pod["volumes"] = [
        copy.deepcopy(item) for item in target.pod.get("volumes", ()) if item["name"] in mounted
    ]
    container = {
        "name": "remove-model" if remove else "fill-cache",
        "image": target.container["image"],
        "command": ["pilotlight", "weights", "rm", target.uri]
        if remove
        else ["python", "-m", "weights.fill_cache", target.uri],
        "env": [
            *(copy.deepcopy(item) for item in target.container.get("env") or () if _is_passed(item["name"])),
            # Where NVIDIA's runtime is the default, an image built for CUDA sees every GPU of the node.
            {"name": _VISIBLE, "value": "void"},
        ],
        "envFrom": copy.deepcopy(list(target.container.get("envFrom") or ())),
        "resources": copy.deepcopy(_RESOURCES),
        "volumeMounts": copy.deepcopy(mounts),
        "securityContext": copy.deepcopy(dict(target.container.get("securityContext") or {})),
    }
    pod["containers"] = [{key: value for key, value in container.items() if value}]
    labels = {
        **template["metadata"].get("labels", {}),
        AGENT_LABEL: target.service["metadata"]["labels"][AGENT_LABEL],
        WARMS_LABEL: target.name,
    }
    annotations = {
        key: value
        for key, value in template["metadata"].get("annotations", {}).items()
        if not key.partition("/")[0].endswith(("knative.dev", "istio.io", "linkerd.io"))
    }
    spec = {
        "backoffLimit": _REMOVAL_RETRIES if remove else _RETRIES,
        "activeDeadlineSeconds": _DEADLINE_S,
        "ttlSecondsAfterFinished": _KEPT_S,
        "template": {
            "metadata": {
                "labels": labels | OUTSIDE_LABELS,
                "annotations": annotations | OUTSIDE_ANNOTATIONS,
            },
            "spec": pod,
        },
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:8]
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": {
            "name": f"{'remove' if remove else 'warm'}-{target.name[:46].rstrip('-')}-{digest}",
            "namespace": target.namespace,
            "labels": labels,
        }
        | ({"annotations": annotations} if annotations else {}),
        "spec": spec,
    }


def _is_needed(volume: str) -> bool:
    """Whether the download needs a volume: not those for requests and for workers that share tensors."""
    return volume not in {KEYS_VOLUME, STAGE_TOKEN_VOLUME, SHM_VOLUME}


def _is_passed(variable: str) -> bool:
    """Whether the download gets a variable: not those that tell a stage what to do."""
    return variable == CACHE_DIR_VARIABLE or not (variable.startswith(PREFIX) or variable == _VISIBLE)
