"""Which errors a user can act on, and with what exit code they end the command line."""

from knative.client.errors import ClusterError
from pilotlight.agent import AgentFileError
from pilotlight.aws_server import AwsServerError
from pilotlight.comparison.errors import CompareError, CompareInputError
from pilotlight.demo.errors import DemoError
from pilotlight.deploy import DeployError
from pilotlight.invoke import InvokeError
from pilotlight.keys import KeysError
from pilotlight.replay.errors import ReplayError
from pilotlight.rollouts import RolloutError
from pilotlight.runs import RunError
from pilotlight.stack import StackError
from pilotlight.warm_weights.jobs import WarmError
from triggers.sources.base import BrokerError
from triggers.spec.field_types import SpecError as TriggerSpecError
from warmpool.adapters.prometheus_api import PrometheusError
from warmpool.domain.spec_errors import SpecError
from warmpool.experiments.errors import ExperimentError, TraceError
from weights import InvalidURIError, WeightsError

_GIVEN = (
    AgentFileError,
    CompareInputError,
    SpecError,
    TriggerSpecError,
    ExperimentError,
    TraceError,
    InvalidURIError,
)
_HAPPENED = (
    AwsServerError,
    BrokerError,
    CompareError,
    DemoError,
    DeployError,
    InvokeError,
    KeysError,
    ReplayError,
    RolloutError,
    RunError,
    StackError,
    ClusterError,
    PrometheusError,
    WarmError,
    WeightsError,
)


def exit_code(error: Exception) -> int | None:
    """2 for what was given, 1 for what happened; None for a defect, which deserves its traceback."""
    if isinstance(error, _GIVEN):
        return 2
    return 1 if isinstance(error, _HAPPENED) else None
