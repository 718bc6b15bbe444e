"""What an agent file says about the pods that post its queues' messages on a cluster (pure)."""

from typing import Any, Literal

from pydantic import Field

from pilotlight.agent_values import AgentModel, Label, Quantity


class DispatcherSettings(AgentModel):
    """One Deployment for each trigger, scaled from zero by the queue's length."""

    image: str | None = None
    """`docker build --target triggers`; required on a cluster."""
    service_account_name: Label | None = None
    """An account with rights at AWS (IRSA). None: one is made, which may read the Triggers and no more."""
    pod_identity: Literal["aws"] | None = None
    """`aws`: KEDA reads SQS by the rights of its own account. None: by the Secret `awsSecret`."""
    aws_secret: Label | None = None
    """Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, for KEDA and for the pods."""
    target_key: Label | None = None
    """Secret whose `token` is the key that the agent asks for (`pilotlight key create`); by default the token
    of the agent's own stages, where it has one."""
    max_replicas: int = Field(default=4, ge=1, le=1000)
    polling_seconds: int = Field(default=10, ge=1, le=3600)
    """Between two looks at the queue."""
    nats_monitoring: str | None = None
    """`HOST:PORT` of NATS' monitoring. None: the host of the source's url, port 8222."""
    env: dict[str, str] = Field(default_factory=dict)
    env_from: list[dict[str, Any]] = Field(default_factory=list)
    requests: dict[str, Quantity] = Field(default_factory=lambda: {"cpu": "50m", "memory": "128Mi"})
    limits: dict[str, Quantity] = Field(default_factory=lambda: {"memory": "512Mi"})
    pod_monitor: bool = False
    """A PodMonitor for the Prometheus operator; annotations for scraping are there in any case."""
