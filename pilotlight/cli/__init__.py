"""The command line: one module per command group, no logic.

Errors that a user can act on are one line on stderr and a non-zero exit: 2 for what was given (a file, an
option), 1 for what happened (a port in use, a cluster out of reach).
"""

import sys

import typer

from knative.cluster import ClusterError
from pilotlight.agent import AgentFileError
from pilotlight.cli import agents, demo, platform, pool, weights
from pilotlight.demo.run import DemoError
from pilotlight.deploy import DeployError
from pilotlight.invoke import InvokeError
from pilotlight.stack import StackError
from warmpool.controller.__main__ import main as controller
from warmpool.domain.problems import PoolError
from weights import WeightsError

app = typer.Typer(
    name="pilotlight",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serverless GPU functions for AI agents on Knative, with a warm-pool controller.",
)
agents.register(app)
platform.register(app)
demo.register(app)
app.add_typer(pool.app, name="pool", help="Warm pools: what they hold, why, and what it costs.")
app.add_typer(weights.app, name="weights", help="Model weights: pull, ls, plan, verify, prune, make-model.")
app.command("controller", help="Run the warm-pool controller alone, against any kubeconfig.")(controller)


def main() -> None:
    """Run the command line."""
    try:
        code = app(standalone_mode=False)
    except (AgentFileError, PoolError) as error:
        code = _fail(error, 2)
    except typer.TyperException as error:
        # Usage errors; the classes that have these two are private to Typer.
        error.show()  # type: ignore[attr-defined]
        code = error.exit_code
    except (DemoError, DeployError, InvokeError, StackError, ClusterError, WeightsError) as error:
        code = _fail(error, 1)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        # The reader (head, less) went away; there is nobody left to tell.
        sys.stderr.close()
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception, code: int) -> int:
    for line in str(error).splitlines():
        typer.echo(f"error: {line}", err=True)
    return code
