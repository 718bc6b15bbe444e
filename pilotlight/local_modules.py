"""Python modules of an agent on this machine: found beside the agent file, deployed anew when they change.

On a cluster they are in the image. Here replicas get the agent file's folder, and the Revision has a digest
of the Python files in it: what was changed becomes a new Revision with the next deploy.
"""

import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from knative import env_vars
from knative.labels import MODULES_ANNOTATION
from pilotlight.agent import Agent

_MOST_FILES = 5000
"""Python files that are looked at; in a larger folder a change may go unnoticed."""


def on_this_machine(objects: Sequence[dict[str, Any]], agents: Sequence[Agent]) -> list[dict[str, Any]]:
    """The objects of agents as the platform on this machine runs them; reads the agents' Python files."""
    folders = {
        (agent.metadata.namespace, agent.service_name(stage)): agent.folder
        for agent in agents
        for stage in agent.spec.services
        if stage.module is not None and agent.folder is not None
    }
    digests = {folder: _digest(folder) for folder in set(folders.values())}
    return [
        obj if folder is None else _beside(obj, folder, digests[folder])
        for obj in objects
        for folder in [
            folders.get((obj["metadata"].get("namespace", ""), obj["metadata"]["name"]))
            if obj["kind"] == "Service"
            else None
        ]
    ]


def _beside(service: dict[str, Any], folder: Path, digest: str) -> dict[str, Any]:
    changed = copy.deepcopy(service)
    template = changed["spec"]["template"]
    template["metadata"].setdefault("annotations", {})[MODULES_ANNOTATION] = digest
    for container in template["spec"]["containers"]:
        env = container.setdefault("env", [])
        if all(entry["name"] != env_vars.MODULE_PATH for entry in env):
            env.append({"name": env_vars.MODULE_PATH, "value": str(folder)})
    return changed


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in _python_files(folder):
        try:
            content = path.read_bytes()
        except OSError:
            continue  # gone meanwhile, or not readable: importing it says so
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _python_files(folder: Path) -> Iterator[Path]:
    """The Python files below a folder, in order; not those of hidden folders and of environments."""
    left = _MOST_FILES
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name != "__pycache__"
            and not (Path(place, name) / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(place, name)
                left -= 1
                if not left:
                    return
