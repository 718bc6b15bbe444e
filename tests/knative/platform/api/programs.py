"""kubectl and kn, run against the test's platform as a user runs them."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.knative.platform.conftest import LocalCluster, service


def manifest(name: str = "a", **options: Any) -> str:
    """A Service of the test backend as YAML."""
    return yaml.safe_dump(
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service", **service(name, **options)}
    )


class Program:
    """A client program with the kubeconfig of the platform and its own home directory."""

    def __init__(self, path: str, local: LocalCluster, home: Path) -> None:
        self.path = path
        self.env = {"KUBECONFIG": str(local.platform.kubeconfig), "HOME": str(home), "PATH": "/usr/bin:/bin"}

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        """A process that runs on; the caller terminates it."""
        return await asyncio.create_subprocess_exec(
            self.path,
            *words,
            env=self.env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(
        self, *words: str, stdin: str = "", status: int = 0, env: dict[str, str] | None = None
    ) -> str:
        """Both streams of a command, whose exit status must be `status`."""
        self.env |= env or {}
        process = await self.start(*words)
        output, _ = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
        text = output.decode()
        assert process.returncode == status, f"{' '.join(words)}: {text}"
        return text


def _found(name: str, local: LocalCluster, home: Path) -> Program:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return Program(path, local, home)


def kubectl_program(local: LocalCluster, home: Path) -> Program:
    return _found("kubectl", local, home)


def kn_program(local: LocalCluster, home: Path) -> Program:
    return _found("kn", local, home)
