"""What durable runs need of the orchestrate stage's pod: the address of their database (pure)."""

from typing import Any, Final

from knative import env_vars
from pilotlight.agent import Agent
from pilotlight.run_settings import RUNS, URL_SECRET, RunSettings, run_settings
from pilotlight.secret_mount import SecretMount
from pilotlight.stage_spec import Kind, StageSpec

WAKER_COMPONENT: Final = "runs-waker"
"""In the label `app.kubernetes.io/component` of its pods."""
_FOLDER: Final = "/var/run/pilotlight/runs-url"
_VOLUME: Final = "pilotlight-runs-url"


def runs_of(stage: StageSpec) -> RunSettings | None:
    """The durable runs of a stage."""
    return run_settings(stage.config) if stage.kind is Kind.ORCHESTRATE else None


def is_woken(stage: StageSpec) -> bool:
    """Whether a waker looks into the stage's database on a cluster: one that it can reach."""
    runs = runs_of(stage)
    return runs is not None and runs.config.store == "postgres"


def waker_name(agent: Agent) -> str:
    """The waker's Deployment, and in a mesh its ServiceAccount."""
    return f"{agent.metadata.name}-{WAKER_COMPONENT}"


def stage_config(stage: StageSpec) -> dict[str, Any]:
    """What the stage gets as its configuration: where the address is, is not its business."""
    if runs_of(stage) is None:
        return stage.config
    runs = {name: value for name, value in stage.config[RUNS].items() if name != URL_SECRET}
    return {**stage.config, RUNS: runs}


def runs_mount(stage: StageSpec) -> SecretMount | None:
    """The Secret with the database's address, as a folder."""
    runs = runs_of(stage)
    if runs is None or runs.url_secret is None:
        return None
    return SecretMount(_VOLUME, runs.url_secret.secret, _FOLDER)


def runs_environment(stage: StageSpec) -> dict[str, str]:
    """The variable that says where the address is."""
    runs = runs_of(stage)
    if runs is None or runs.url_secret is None:
        return {}
    return {f"{env_vars.RUNS_URL}_FILE": f"{_FOLDER}/{runs.url_secret.key}"}


def unfit_for_a_cluster(agent: Agent) -> str | None:
    """Why an agent's runs cannot work on a cluster; None if they can."""
    for stage in agent.spec.services:
        runs = runs_of(stage)
        if runs is None or runs.config.store != "sqlite":
            continue
        where = f"stage {stage.name}: config.runs.store sqlite"
        if stage.scaling.max != 1:
            most = stage.scaling.max or "no limit"
            return (
                f"{where} is for one machine; scaling.max is {most}, must be 1 on a cluster (replicas on two "
                "nodes cannot share the file), or store: postgres"
            )
        if runs.config.path is None:
            return (
                f"{where} must have path on a cluster, on a volume that outlives its pods, or store: postgres"
            )
        if stage.scaling.min != 1:
            return (
                f"{where} must have scaling.min 1 on a cluster (nobody else sees the file to wake one), "
                "or store: postgres"
            )
    return None
