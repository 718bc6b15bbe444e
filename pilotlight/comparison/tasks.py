"""Scores of lm-eval (https://github.com/EleutherAI/lm-evaluation-harness), where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knative.local.kubelet.process import dies_with_parent
from pilotlight.comparison.errors import CompareError, CompareInputError
from pilotlight.comparison.replica import NAME
from pilotlight.comparison.values import Task

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Data sets come from the cache of an earlier run, or from files that the task names."""

_NO_SCORES = frozenset({"alias", "sample_count", "sample_len"})


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse tasks that cannot be run, before anything starts.

    Raises:
        CompareInputError: lm-eval is not installed, or a file of a task is missing.
    """
    if not tasks:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise CompareInputError(
            f"--tasks {','.join(tasks)}: lm-eval is not installed; scores need: pip install 'lm-eval[api]'"
        )
    for task in tasks:
        if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
            raise CompareInputError(f"--tasks {task}: there is no such file")


async def run_tasks(tasks: Sequence[str], url: str, model: Path, *, concurrency: int) -> tuple[Task, ...]:
    """The scores of a replica, from lm-eval's own command line in a process of its own.

    Args:
        tasks: names, or files that describe one.
        url: of the replica.
        model: whose tokenizer lm-eval reads.
        concurrency: requests at a time.

    Raises:
        CompareError: with what lm-eval said last.
    """
    given = (
        f"model={NAME},base_url={url}/v1/completions,tokenizer={model},tokenizer_backend=huggingface,"
        f"tokenized_requests=True,num_concurrent={concurrency},max_retries=1"
    )
    with tempfile.TemporaryDirectory(prefix="pilotlight-lm-eval-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *dies_with_parent(),
                sys.executable,
                *("-m", "lm_eval", "--model", "local-completions", "--model_args", given),
                *("--tasks", ",".join(tasks), "--output_path", folder, "--seed", "0"),
                env={**os.environ, **_OFFLINE},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return await asyncio.to_thread(_read_folder, Path(folder), code)


def _read_folder(folder: Path, code: int) -> tuple[Task, ...]:
    results = sorted(folder.glob("**/results_*.json"))
    if code == 0 and results:
        return read_results(json.loads(results[-1].read_text()))
    lines = [line for line in (folder / "log").read_text(errors="replace").splitlines() if line.strip()]
    said = " | ".join(lines[-2:]) or "nothing"
    raise CompareError(
        f"lm-eval ended with {code} (data sets are not downloaded here: a task needs its data in the cache "
        f"of data sets, or in files of its own): {said}"
    )


def read_results(content: Mapping[str, Any]) -> tuple[Task, ...]:
    """The scores in lm-eval's file of results."""
    found = []
    better = content.get("higher_is_better") or {}
    for task, values in (content.get("results") or {}).items():
        for key, value in values.items():
            metric, _, rest = key.partition(",")
            if metric in _NO_SCORES or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{rest}")
            found.append(
                Task(
                    task=str(task),
                    metric=metric,
                    value=float(value),
                    stderr=float(error) if isinstance(error, int | float) else None,
                    higher_is_better=bool((better.get(task) or {}).get(metric, True)),
                )
            )
    return tuple(found)
