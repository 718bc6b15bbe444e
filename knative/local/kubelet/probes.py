"""Startup, readiness and liveness probes: their settings, and one attempt at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from knative.local.kubelet import environment

_MAX_CONNECTIONS = 64
_PHASE = "X-Pilotlight-Phase"
"""Of a response to a readiness probe: what the replica is doing on its way to ready."""
_LONGEST_PHASE = 32


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of one container, with Kubernetes' defaults filled in."""

    kind: str
    """`http`, `tcp`, `exec`."""
    port: int = 0
    path: str = "/"
    tls: bool = False
    """The server speaks TLS and expects a certificate."""
    headers: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    initial_delay_s: float = 0.0
    period_s: float = 1.0
    timeout_s: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of one attempt; `message` says why it failed."""

    ok: bool
    message: str = ""


def parse(
    spec: Mapping[str, Any] | None, container: Mapping[str, Any], port: int, *, tls: bool = False
) -> Probe | None:
    """The probe that a container's specification describes.

    `port` is the one its process listens on, and `tls` whether it speaks TLS there.
    """
    if not spec:
        return None
    common: dict[str, Any] = {
        "initial_delay_s": float(spec.get("initialDelaySeconds") or 0),
        "period_s": max(1.0, float(spec.get("periodSeconds") or 1)),
        "timeout_s": float(spec.get("timeoutSeconds") or 1),
        "success_threshold": int(spec.get("successThreshold") or 1),
        "failure_threshold": int(spec.get("failureThreshold") or 3),
    }
    if (http := spec.get("httpGet")) is not None:
        return Probe(
            "http",
            port=_port(http.get("port"), container, port),
            tls=tls and _port(http.get("port"), container, port) == port,
            path="/" + str(http.get("path") or "").lstrip("/"),
            headers=tuple((item["name"], item["value"]) for item in http.get("httpHeaders") or ()),
            **common,
        )
    if (command := spec.get("exec")) is not None:
        return Probe("exec", command=tuple(command.get("command") or ()), **common)
    target = spec.get("tcpSocket") or spec.get("grpc") or {}
    return Probe("tcp", port=_port(target.get("port"), container, port), **common)


def _port(wanted: Any, container: Mapping[str, Any], port: int) -> int:
    """The declared port stands for the one that the process listens on; any other number for itself."""
    declared, name = environment.named_port(container)
    if not wanted or wanted in (declared, name, str(declared)):
        return port
    return int(wanted)


class Prober:
    """Carries out the probes of all pods, with a bound on connections at a time."""

    def __init__(self, host: str, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: the context for servers that speak TLS."""
        self._host = host
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self.phases: dict[int, str] = {}
        """What replicas that are not ready yet say that they do, by port."""

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def attempt(
        self, probe: Probe, env: Mapping[str, str], folder: Path, wrapper: Sequence[str] = ()
    ) -> ProbeResult:
        """One attempt; `wrapper` is the command prefix of exec probes."""
        try:
            async with asyncio.timeout(probe.timeout_s):
                match probe.kind:
                    case "http":
                        return await self._http(probe)
                    case "exec":
                        return await _exec((*wrapper, *probe.command), env, folder)
                    case _:
                        return await self._tcp(probe)
        except TimeoutError:
            return ProbeResult(False, f"no answer within {probe.timeout_s:g} s")

    async def _http(self, probe: Probe) -> ProbeResult:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, force_close=True, ssl=self._tls or True)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        scheme = "https" if probe.tls else "http"
        url = f"{scheme}://{self._host}:{probe.port}{probe.path}"
        headers = {"User-Agent": "kube-probe/pilotlight", **dict(probe.headers)}
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                phase = answer.headers.get(_PHASE, "")[:_LONGEST_PHASE]
                if 200 <= answer.status < 400:
                    self.phases.pop(probe.port, None)
                    return ProbeResult(True)
                if phase.isalnum():
                    self.phases[probe.port] = phase
                return ProbeResult(False, f"HTTP probe failed with statuscode: {answer.status}")
        except (aiohttp.ClientError, OSError, ValueError) as problem:  # ValueError: no such URL or header
            return ProbeResult(False, f"Get {url!r}: {problem}")

    async def _tcp(self, probe: Probe) -> ProbeResult:
        try:
            _, writer = await asyncio.open_connection(self._host, probe.port)
        except (OSError, OverflowError) as problem:  # OverflowError: no such port
            return ProbeResult(False, f"dial tcp {self._host}:{probe.port}: {problem}")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return ProbeResult(True)


async def _exec(command: Sequence[str], env: Mapping[str, str], folder: Path) -> ProbeResult:
    if not command:
        return ProbeResult(False, "command cannot be run: it is empty")
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(env),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as problem:  # ValueError: a null character
        return ProbeResult(False, f"command cannot be run: {problem}")
    try:
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return ProbeResult(code == 0, f"command terminated with exit code {code}")
