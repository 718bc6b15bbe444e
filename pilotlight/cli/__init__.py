"""The command line: one module per command group, no logic.

A module is imported when one of its commands is called: `--help` and completion answer at once, and `status`
does not wait for what only the demo needs. Errors that a user can act on are one line on stderr and a
non-zero exit: 2 for what was given (a file, an option), 1 for what happened (a port in use, a cluster out of
reach).
"""

import importlib
import importlib.metadata
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

OK = 0
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is not imported yet: its first line of help, and the module whose `app` has it."""

    help: str
    module: str


COMMANDS: dict[str, Lazy] = {
    "init": Lazy("Make a folder with an agent, its stage, tools and tests, which run at once.", "init"),
    "render": Lazy(
        "Print the Knative Services, WarmPools and Triggers that an agent file compiles to.", "agents"
    ),
    "graph": Lazy("Draw the graph of an agent's stages: Mermaid text, SVG or PNG.", "graph"),
    "deploy": Lazy("Apply an agent file to a cluster, or to the platform on this machine.", "agents"),
    "doctor": Lazy("Check a cluster, or this machine, for what agents need.", "doctor"),
    "delete": Lazy("Delete an agent's Services, WarmPools and Triggers.", "agents"),
    "invoke": Lazy("Call a function URL and print what it answers.", "agents"),
    "up": Lazy(
        "Start a Knative on this machine, with the warm-pool controller; Ctrl-C stops it and all replicas.",
        "platform",
    ),
    "down": Lazy("Stop the platform that runs on this machine.", "platform"),
    "status": Lazy("Show Services, replicas and warm pools.", "platform"),
    "logs": Lazy("Print what a Service's replicas wrote.", "platform"),
    "top": Lazy("Watch Services live: replicas, warmth, floor, requests/s, TTFT, cost so far.", "platform"),
    "cost": Lazy("Show what warm pools have cost in their period, divided by what each caller used.", "cost"),
    "key": Lazy("Keys of function URLs: create, ls, revoke; rotate.", "key"),
    "demo": Lazy("Serve real vLLM tokens from zero, then again with a warm pool, and compare.", "demo"),
    "controller": Lazy("Run the warm-pool controller alone, against any kubeconfig.", "controller"),
    "dashboard": Lazy(
        "Serve the dashboard of a cluster, read-only; `pilotlight up` serves its own.", "dashboard"
    ),
    "pool": Lazy("Warm pools: what they hold, why, and what it costs.", "pool"),
    "rollout": Lazy("Rollouts of new Revisions in steps: status, promote, abort, pause, resume.", "rollout"),
    "run": Lazy("Durable runs: ls, show, events, cancel, resume, approve.", "run"),
    "trigger": Lazy("Event triggers: queues whose messages are posted to functions.", "trigger"),
    "experiment": Lazy(
        "Experiments: what warm pools would cost on a trace, and what users would feel.", "experiment"
    ),
    "model": Lazy("Models: quantize a checkpoint, compare what it changes and saves.", "model"),
    "weights": Lazy(
        "Model weights: pull, warm, ls, plan, verify, prune, rm, make-model, teach-model.", "weights"
    ),
}


class LazyGroup(TyperGroup):
    """The top level: lists every command from the table, imports the one that is called."""

    # The types of what Typer vendors from click are private to it.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and what is left of the arguments, with the real command in its place."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, placeholder and load(str(name)), rest


def load(name: str) -> Any:
    """Import a command.

    Raises:
        KeyError: there is none of this name.
    """
    module = importlib.import_module(f"{__name__}.{COMMANDS[name].module}")
    command = typer.main.get_command(module.app)
    return getattr(command, "commands", {}).get(name, command)


app = typer.Typer(
    name="pilotlight",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serverless GPU functions for AI agents on Knative, with a warm-pool controller.",
)


def _version(asked: bool) -> None:  # noqa: FBT001 (Typer gives a callback the option's value so)
    if asked:
        typer.echo(f"pilotlight {importlib.metadata.version('pilotlight')}")
        raise typer.Exit


@app.callback()
def top(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _placeholder() -> None:
    """Stand where a command will be: `LazyGroup` never calls it."""


for _name, _lazy in COMMANDS.items():
    app.command(_name, help=_lazy.help)(_placeholder)


def main() -> None:
    """Run the command line."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        # Usage errors; the classes that have these two are private to Typer.
        error.show()  # type: ignore[attr-defined]
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away; there is nobody left to tell.
        sys.stderr.close()
        code = 1
    except Exception as error:
        # Imported only now, for it names the errors of every package.
        failures = importlib.import_module(f"{__name__}.failures")
        code = failures.exit_code(error)
        if code is None:
            raise
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
    sys.exit(code if isinstance(code, int) else OK)
