"""Checks of the model: memory, and how long a cold start may take (pure)."""

from collections.abc import Iterator, Mapping, Sequence

from knative import render
from knative.literals import parse_integer
from pilotlight.agent import Agent
from pilotlight.compile_gpu import PRICE_ANNOTATION, gpu_of, gpu_types
from pilotlight.compile_pod import NO_IMAGE
from pilotlight.doctor.cluster_facts import ClusterFacts
from pilotlight.doctor.findings import Finding, Level, Unknown, ok, unknown
from pilotlight.doctor.model_memory import ModelFacts, estimate
from pilotlight.doctor.needs import StageNeeds, is_gpu
from pilotlight.stage_spec import Kind, StageSpec

_ASSUMED_BYTES_PER_S = 250e6
"""From S3 or a shared file system to the device; an assumption for where nothing was measured."""
_ASSUMED_REST_S = 60.0
"""Scheduling, image on the node, imports, warm-up; likewise."""
_IDLE_S = 60


def device_memory(agent: Agent, stage: StageSpec) -> int | None:
    """Bytes of one device of a model's stage; None where nothing in the file names its type."""
    if stage.engine_type != "vllm":
        return None
    types = gpu_types(agent)
    gpu = gpu_of(agent, stage)
    if gpu is not None:
        return gpu.memory_bytes(types)
    if not any(map(is_gpu, stage.resources.limits)):
        return None
    named = {**agent.spec.annotations, **stage.annotations}.get(PRICE_ANNOTATION)
    selector = (agent.spec.node_selector if stage.node_selector is None else stage.node_selector) or {}
    for name, known in types.items():
        labels = known.node_labels.items()
        if name == named or any(selector.get(key) in values for key, values in labels):
            return known.memory_bytes
    return None


def memory(
    agents: Sequence[Agent], needs: Sequence[StageNeeds], models: Mapping[str, ModelFacts | Unknown]
) -> Iterator[Finding]:
    """Whether each model fits into its GPUs.

    Args:
        agents: as checked.
        needs: of their stages.
        models: by their address, those whose GPU is known.
    """
    for need in needs:
        model = models.get(need.model_uri or "")
        agent = agents[need.agent]
        device = device_memory(agent, agent.spec.stages[need.index])
        if need.kind is not Kind.GENERATE or model is None or device is None:
            continue
        if isinstance(model, Unknown):
            yield unknown("memory", f"whether the model of {need.service} fits its GPU", model)
            continue
        stage = agent.spec.stages[need.index]
        gpu = gpu_of(agent, stage)
        args = stage.engine.args if stage.engine else {}
        found = estimate(model, args, device_bytes=device, workers=stage.parallel_workers)
        shared = gpu is not None and gpu.share in {"time-slicing", "mps"}
        if found.fits:
            beside = "; other pods use the same memory" if shared else ""
            room = "" if found.sequences is None else f"; {found.sequences} such sequences fit at a time"
            yield ok("memory", f"{need.service}: {found.text}, an estimate{room}{beside}")
        else:
            yield Finding(
                Level.ERROR,
                "memory",
                f"{need.service} cannot fit: {found.text}",
                "a larger GPU, a smaller max-model-len, a quantized model, or tensor-parallel-size and count",
                need.gpu_field,
                need.agent,
            )


def cold_starts(
    facts: ClusterFacts, needs: Sequence[StageNeeds], models: Mapping[str, ModelFacts | Unknown]
) -> Iterator[Finding]:
    """Whether a request may wait for as long as a cold start takes."""
    measured = facts.cold_starts if not isinstance(facts.cold_starts, Unknown) else {}
    longest = 0.0
    for need in needs:
        seconds = measured.get((need.namespace, need.service))
        source = "measured p95"
        model = models.get(need.model_uri or "")
        if (
            seconds is None
            and need.kind is Kind.GENERATE
            and isinstance(model, ModelFacts)
            and not facts.local
        ):
            seconds = _ASSUMED_REST_S + model.stored_bytes / _ASSUMED_BYTES_PER_S
            source = f"estimate: {_ASSUMED_REST_S:g} s and the weights at {_ASSUMED_BYTES_PER_S / 1e6:g} MB/s"
        if seconds is None:
            continue
        longest = max(longest, seconds)
        yield from _against(facts, need, seconds, source)
    if longest > _IDLE_S and not facts.local:
        yield Finding(
            Level.WARNING,
            "cold start",
            f"a request may be silent for {longest:.0f} s {_ingress(facts)}: load balancers end idle "
            "connections (AWS: 60 s for an ALB, 350 s for an NLB; GKE: 30 s for a backend service)",
            "raise its idle time-out above the cold start, or hold a floor with a warm pool",
        )


def _ingress(facts: ClusterFacts) -> str:
    if isinstance(facts.network, Unknown):
        return "(ingress: unknown)"
    name = facts.network.get("ingress-class") or facts.network.get("ingress.class")
    return f"(ingress: {name or 'the default'})"


def _against(facts: ClusterFacts, need: StageNeeds, seconds: float, source: str) -> Iterator[Finding]:
    default = render.FIRST_BYTE_TIMEOUT_S
    if not isinstance(facts.defaults, Unknown):
        data = facts.defaults
        known = data.get("revision-response-start-timeout-seconds") or data.get(
            "revision-timeout-seconds", ""
        )
        default = parse_integer(known) or default
    patience = int(need.spec.get("responseStartTimeoutSeconds") or need.spec.get("timeoutSeconds") or default)
    shown = f"a cold start of {need.service} takes {seconds:.0f} s ({source})"
    if seconds >= patience:
        yield Finding(
            Level.WARNING,
            "cold start",
            f"{shown}, but its first byte must come within {patience} s: the request that wakes it fails",
            f"timeoutSeconds: {int(seconds * 1.5) + 1} in the stage",
            need.own_field("timeoutSeconds"),
            need.agent,
        )
    elif seconds >= need.progress_deadline_s:
        yield Finding(
            Level.WARNING,
            "cold start",
            f"{shown}, but progressDeadline is {need.progress_deadline_s:g} s: its first replica is ended",
            f"progressDeadline: {int(seconds * 2) + 1}s in the stage",
            need.own_field("progressDeadline"),
            need.agent,
        )
    else:
        yield ok("cold start", f"{shown}; requests wait up to {patience} s")


def images(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """Whether every stage names an image, without which no cluster can run it."""
    without = [need for need in needs if need.spec["containers"][0]["image"] == NO_IMAGE]
    if without and not facts.local:
        yield Finding(
            Level.ERROR,
            "image",
            f"no image for {', '.join(need.service for need in without)}",
            "docker build --target functions -t REGISTRY/NAME:TAG . && docker push, and spec.image: it",
            ("spec", "image"),
            without[0].agent,
        )


def model_places(
    facts: ClusterFacts, agents: Sequence[Agent], needs: Sequence[StageNeeds]
) -> Iterator[Finding]:
    """Whether a model in a folder is where pods can see it."""
    if facts.local:
        return
    for need in needs:
        uri = need.model_uri
        if uri is None or uri.startswith("s3://") or need.kind is not Kind.GENERATE:
            continue
        path = uri.removeprefix("file://")
        mounts = [mount["mountPath"] for mount in need.spec["containers"][0].get("volumeMounts") or ()]
        if not any(path == mount or path.startswith(f"{mount}/") for mount in mounts):
            own = agents[need.agent].spec.stages[need.index].model is not None
            yield Finding(
                Level.WARNING,
                "model",
                f"{path} is a folder of this machine: a pod has it only from its image or a volume",
                "s3://BUCKET/PREFIX, or volumes and volumeMounts at that path",
                ("spec", "stages", need.index, "model", "uri") if own else ("spec", "model", "uri"),
                need.agent,
            )
