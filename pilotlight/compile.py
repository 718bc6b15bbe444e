"""From an agent to the objects that a Knative runs (pure).

What runs on one machine is what runs on a cluster: both get what `compile_agent` returns.
"""

import json
from typing import Any

from knative import env_vars, render
from knative.labels import AGENT_LABEL, CLUSTER_LOCAL, STAGE_LABEL, VISIBILITY_LABEL
from pilotlight.agent import Agent
from pilotlight.agent_graph import graph_settings
from pilotlight.compile_access import access_annotations, access_environment, network_policy
from pilotlight.compile_pod import NO_IMAGE, compile_pod
from pilotlight.compile_runs import runs_environment, stage_config
from pilotlight.compile_triggers import trigger_object
from pilotlight.compile_waker import waker_objects
from pilotlight.mesh.objects import mesh_objects
from pilotlight.mesh.pods import pod_annotations, pod_labels
from pilotlight.stage_spec import EngineSpec, Kind, StageSpec


def compile_agent(agent: Agent) -> list[dict[str, Any]]:
    """The agent's objects: a Knative Service for each stage, then its WarmPools and its Triggers."""
    namespace = agent.metadata.namespace
    services = [_service(agent, stage) for stage in agent.spec.services]
    pools = []
    for stage in agent.spec.services:
        if (pool := agent.pool(stage)) is not None:
            name = agent.service_name(stage)
            pools.append(pool.to_object(name=name, namespace=namespace, target=name))
    return services + pools + [trigger_object(agent, trigger) for trigger in agent.spec.triggers]


def compile_for_cluster(agent: Agent) -> list[dict[str, Any]]:
    """What only a cluster gets beside `compile_agent`: NetworkPolicy, mesh, the waker of durable runs."""
    policy = network_policy(agent)
    return [*([] if policy is None else [policy]), *mesh_objects(agent), *waker_objects(agent)]


def _service(agent: Agent, stage: StageSpec) -> dict[str, Any]:
    own = stage.is_own_image
    pod = compile_pod(agent, stage)
    s3 = agent.spec.s3 if agent.spec.reads_model(stage) else None
    container = render.Container(
        image=stage.image or agent.spec.image or NO_IMAGE,
        command=stage.command if own else ["python", "-m", "functions"],
        args=stage.args if own else [stage.kind.value, *([stage.module] if stage.module else [])],
        env={**pod.cache} | (s3.env() if s3 else {}) | _environment(agent, stage),
        env_from=[*(s3.env_from() if s3 else ()), *agent.spec.env_from, *stage.env_from],
        requests=stage.resources.requests,
        limits={**stage.resources.limits, **pod.limits},
        ready_path=None if own or stage.readiness == "port" else "/healthz/ready",
        liveness_probe=pod.liveness_probe,
        volume_mounts=pod.volume_mounts,
        security_context=pod.security_context,
    )
    return render.service(
        name=agent.service_name(stage),
        namespace=agent.metadata.namespace,
        container=container,
        autoscaling=autoscaling(stage),
        container_concurrency=stage.scaling.container_concurrency or None,
        timeout_seconds=stage.timeout_seconds,
        response_start_timeout_seconds=stage.response_start_timeout_seconds,
        progress_deadline=stage.progress_deadline or ("1800s" if stage.kind is Kind.GENERATE else None),
        labels={
            **agent.metadata.labels,
            **agent.spec.labels,
            **stage.labels,
            **pod_labels(agent),
            AGENT_LABEL: agent.metadata.name,
            STAGE_LABEL: stage.kind.value,
        },
        service_labels={} if agent.is_public(stage) else {VISIBILITY_LABEL: CLUSTER_LOCAL},
        annotations={
            **pod.annotations,
            **access_annotations(agent, stage),
            **pod_annotations(agent, stage),
            **agent.spec.annotations,
            **stage.annotations,
        },
        pod=pod.fields,
    )


def autoscaling(stage: StageSpec) -> render.Autoscaling:
    """The scaling of a stage as Knative's annotations have it."""
    scaling = stage.scaling
    return render.Autoscaling(
        min_scale=scaling.min or None,
        max_scale=scaling.max or None,
        initial_scale=scaling.initial,
        activation_scale=scaling.activation,
        metric=None if scaling.metric == "concurrency" else scaling.metric,
        target=scaling.target,
        target_utilization_percentage=scaling.target_utilization_percentage,
        window=scaling.window,
        scale_down_delay=scaling.scale_down_delay,
        scale_to_zero_pod_retention_period=scaling.retention,
    )


def _environment(agent: Agent, stage: StageSpec) -> dict[str, str]:
    env = dict(agent.spec.env)
    if not stage.is_own_image:
        env |= access_environment(agent, stage)
        env[env_vars.AGENT] = agent.metadata.name
        model = agent.spec.model_of(stage)
        if model is not None:
            if model.uri is not None:
                env[env_vars.MODEL_URI] = model.uri
            # A model of the stage's own is not what clients know by the agent's name.
            env[env_vars.MODEL_NAME] = model.name or (stage.name if stage.model else agent.metadata.name)
        if stage.kind is Kind.GENERATE:
            engine = stage.engine or EngineSpec()
            env[env_vars.ENGINE] = engine.type
            if engine.args:
                env[env_vars.ENGINE_ARGS] = json.dumps(engine.args)
            if stage.warmth != "hot":
                env[env_vars.WARMTH] = stage.warmth
            if stage.snapshot:
                env[env_vars.SNAPSHOT] = "true"
        if stage.kind is Kind.ORCHESTRATE:
            env |= _graph_environment(agent)
        env |= runs_environment(stage)
        if stage.config:
            env[env_vars.STAGE_CONFIG] = json.dumps(stage_config(stage))
    return env | stage.env


def _graph_environment(agent: Agent) -> dict[str, str]:
    """Which stages orchestrate calls, and how they are bound together."""
    stages = [
        {"name": stage.name, "kind": stage.kind.value, **_place(agent, stage)}
        for stage in agent.spec.stages
        if stage.is_called
    ]
    graph = graph_settings(agent, lambda stage: _url(agent, stage))
    bound = {} if graph is None else {env_vars.GRAPH: json.dumps(graph)}
    return {env_vars.STAGES: json.dumps(stages), **bound}


def _place(agent: Agent, stage: StageSpec) -> dict[str, Any]:
    """Where a stage is: at a URL, or in orchestrate's process, with what it would be told of its own."""
    if not stage.colocate:
        return {"url": _url(agent, stage)}
    uri = agent.spec.model_uri(stage)
    return {"colocated": {"config": stage.config} | ({} if uri is None else {"modelUri": uri})}


def _url(agent: Agent, stage: StageSpec) -> str:
    return f"http://{agent.service_name(stage)}.{agent.metadata.namespace}.svc.cluster.local"
