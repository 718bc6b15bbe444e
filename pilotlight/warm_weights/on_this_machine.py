"""Fill the cache that the local platform's replicas read, with a process: the platform runs no Jobs."""

import asyncio
import base64
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from knative.client.cluster import Cluster
from knative.client.errors import NotFound
from knative.client.resources import CONFIG_MAP, SECRET
from knative.local.platform.state_folder import StateFolder
from pilotlight.stack import inherited_env
from pilotlight.warm_weights.fill_state import Fill, State, with_line
from pilotlight.warm_weights.jobs import WarmError, WarmTarget
from weights.cache.location import CACHE_DIR_VARIABLE, default_cache_dir

_CA_BUNDLE = "AWS_CA_BUNDLE"


def folder_of(target: WarmTarget, state_dir: Path) -> Path:
    """The folder of this machine that the stage's replicas see as their cache."""
    if target.claim is None:
        return default_cache_dir({} if target.cache_dir is None else {CACHE_DIR_VARIABLE: target.cache_dir})
    return StateFolder(state_dir).claims / target.namespace / target.claim


async def fill(
    target: WarmTarget,
    folder: Path,
    referenced: dict[str, str],
    show: Callable[[Fill], None],
    *,
    timeout_s: float,
) -> Fill:
    """Run the filling to its end; cancelled or out of time, it ends and what has arrived stays.

    Args:
        target: from `warm_target`.
        folder: the cache, from `folder_of`.
        referenced: what the container's `envFrom` refers to, from `referenced_env`.
        show: called with the state whenever it has changed.
        timeout_s: seconds that it may take.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "weights.fill_cache",
        target.uri,
        env=_environment(target, folder, referenced),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which then ends that one
    )
    state = Fill(str(folder), state=State.FILLING)
    show(state)
    try:
        async with asyncio.timeout(timeout_s):
            assert process.stdout is not None
            async for line in process.stdout:
                state = with_line(state, line.decode(errors="replace"))
                show(state)
            code = await process.wait()
    except TimeoutError:
        return replace(state, detail=f"not done after {timeout_s:g} s; what has arrived stays")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
    if code == 0:
        return replace(state, state=State.DONE)
    return replace(state, state=State.FAILED, detail=state.detail or f"exit code {code}")


def _environment(target: WarmTarget, folder: Path, referenced: dict[str, str]) -> dict[str, str]:
    own = {item["name"]: str(item.get("value") or "") for item in target.container.get("env") or ()}
    if not Path(own.get(_CA_BUNDLE, "/")).exists():
        del own[_CA_BUNDLE]  # a file of a volume, which only the platform mounts
    basic = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return basic | inherited_env() | referenced | own | {CACHE_DIR_VARIABLE: str(folder)}


async def referenced_env(cluster: Cluster, target: WarmTarget) -> dict[str, str]:
    """The variables that the container's `envFrom` takes from Secrets and ConfigMaps.

    Raises:
        WarmError: one of them does not exist.
    """
    found: dict[str, str] = {}
    for entry in target.container.get("envFrom") or ():
        kind, resource = ("secretRef", SECRET) if "secretRef" in entry else ("configMapRef", CONFIG_MAP)
        reference: Mapping[str, Any] = entry[kind]
        try:
            obj = await cluster.get(resource, reference["name"], target.namespace)
        except NotFound as error:
            if reference.get("optional"):
                continue
            raise WarmError(f"envFrom of {target.name}: {error}") from error
        for key, value in (obj.get("data") or {}).items():
            text = base64.b64decode(value).decode() if resource is SECRET else value
            found[f"{entry.get('prefix', '')}{key}"] = text
    return found
