"""One replay as a command runs it: its connection, its file, Ctrl-C, and what is shown meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from knative.client.errors import ClusterError
from pilotlight import kubeconfig as kubeconfigs
from pilotlight import terminal
from pilotlight.replay.errors import ReplayError
from pilotlight.replay.plan import service_of
from pilotlight.replay.pools import find_targets
from pilotlight.replay.session import Replay
from pilotlight.replay.values import Platform, ReplayPlan, ReplayProgress, ResultsFile

RESULTS: Final = "replay.jsonl"
INTERRUPTED: Final = 130
TERMINATED: Final = 143


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the pools are.

    Attributes:
        service: NAMESPACE/NAME; None: as the URL says.
        kubeconfig: None: that of the platform on this machine, or the pod's account.
        state: the platform's state folder; None: the usual one.
    """

    service: str | None = None
    kubeconfig: Path | None = None
    state: Path | None = None


@dataclass(slots=True)
class Ended:
    """How a replay ended.

    Attributes:
        code: the exit code that says it.
        problems: lines for standard error.
    """

    code: int = 0
    problems: list[str] = field(default_factory=list)


def run(plan: ReplayPlan, connection: Connection | None, folder: Path) -> Ended:
    """Run a replay; whatever was answered is in the folder's `replay.jsonl`.

    Raises:
        ExperimentError: the URL does not tell the Service.
        ReplayError: it could not begin, so that there is nothing in the file.
        ClusterError, StackError: the same, of the Kubernetes API and the kubeconfig.
    """
    if connection is not None:
        service_of(plan.exchange.url, connection.service)
    path = folder / RESULTS
    fresh = folder / f".{RESULTS}.new"
    ended = Ended()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = fresh.open("w", encoding="utf-8")
    except OSError as error:
        raise ReplayError(f"--out {folder}: cannot be written: {error.strerror}") from error
    try:
        with results, _shown() as progress:
            try:
                asyncio.run(_run(plan, connection, ResultsFile(results, path), progress, ended))
            except (ReplayError, ClusterError) as error:
                if not progress.begun:
                    raise
                ended.code = 1
                ended.problems.extend(f"error: {line}" for line in str(error).splitlines())
        ended.problems[:0] = [f"warning: {text}" for text in progress.warnings]
        # Results of an earlier replay stay until there are others.
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return ended


async def _run(
    plan: ReplayPlan,
    connection: Connection | None,
    results: ResultsFile,
    progress: ReplayProgress,
    ended: Ended,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt(number: signal.Signals) -> None:
        ended.code = TERMINATED if number is signal.SIGTERM else INTERRUPTED
        ended.problems.append("interrupted: the results have what was answered")
        stop.set()
        progress.told("", "stopping; another Ctrl-C ends at once, and leaves the pools as they are now", -1.0)
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    async with AsyncExitStack() as exits:
        platform = None
        if connection is not None:
            cluster = await exits.enter_async_context(
                kubeconfigs.connect(connection.kubeconfig, connection.state)
            )
            namespace, name = service_of(plan.exchange.url, connection.service)
            targets = await find_targets(cluster, namespace, name)
            file = kubeconfigs.find_or_account(connection.kubeconfig, connection.state)
            platform = Platform(cluster, file, targets)
        await Replay(plan, platform, results, progress).run(stop)


@contextmanager
def _shown() -> Iterator[ReplayProgress]:
    """A bar for each arm on a terminal; elsewhere a line whenever something else begins."""
    console = terminal.stderr_console()
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[doing]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or bool(os.environ.get("TERM") == "dumb"),
    )
    tasks: dict[str, TaskID] = {}
    said: set[tuple[str, str]] = set()

    def told(arm: str, doing: str, share: float) -> None:
        if bars.disable:
            if (arm, doing) not in said:
                said.add((arm, doing))
                console.print(f"{arm}: {doing}" if arm else doing, soft_wrap=True)
            return
        if arm not in tasks:
            tasks[arm] = bars.add_task(arm, total=1.0, doing=doing)
        bars.update(tasks[arm], completed=max(0.0, share), doing=doing)

    with bars:
        yield ReplayProgress(told)
