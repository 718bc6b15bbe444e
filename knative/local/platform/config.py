"""How a platform is set up, and the error that says why it cannot start."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knative.client.resources import Resource
from knative.local.apiserver.admission.validating_function import ValidatingFunction
from knative.local.apiserver.api.app import AsgiApp
from knative.local.certificate_authority import Lifetimes
from knative.local.kubelet.preimported import Preimported
from transport.request_head import HeadLimits
from transport.spans import SpanQueue

LOOPBACK = "127.0.0.1"
_LOOPBACK_HOSTS = frozenset({LOOPBACK, "::1", "localhost"})
_ANY_ADDRESS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  # compared with, not bound to


class PlatformError(Exception):
    """The platform cannot start; the message says why and what to do. Nothing is left running."""


@dataclass(frozen=True, slots=True)
class PlatformConfig:
    """How a platform is set up."""

    state_dir: Path
    """Folder of objects, logs, kubeconfig and lock; each platform has one of its own."""
    host: str = LOOPBACK
    """Address of gateway and API. `127.0.0.1` includes `::1`; replicas listen on `127.0.0.1` always."""
    gateway_port: int = 8080
    """Port of function URLs; 0 picks a free one."""
    api_port: int = 8081
    """Port of the Kubernetes API and of the metrics; 0 picks a free one."""
    gpus: int = 0
    """GPU slots: GPUs of the machine, or stand-ins on a machine without any."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of every replica, below its containers' own variables."""
    admin_key: str | None = None
    """Derives the secret of each Service that changes its replicas' warmth; its replicas get it in their
    environment. None: there is none."""
    workdir: Path = field(default_factory=Path.cwd)
    """Working directory of containers that name none."""
    crash_backoff_s: float = 10.0
    """Seconds before a crashing replica's second restart; doubles each time, up to five minutes."""
    stop_grace_s: float = 10.0
    """Seconds from SIGTERM to SIGKILL when the platform stops."""
    cgroups: bool = True
    """Whether control groups enforce containers' limits where the machine permits it. Without them, memory is
    sampled once a second and CPU is not limited."""
    preimported: Preimported | None = None
    """A Python module whose containers are forked from a process that has imported it. None: all are started
    by `exec`."""

    allowed_hosts: Collection[str] = ()
    """Host names under which the API and path URLs of functions may be called, besides IP addresses,
    `localhost` and names below it, and the machine's own name where `host` is not a loopback address; `*` for
    any. Any other name may be that of a web page that reaches this machine through the user's browser."""
    allowed_origins: Collection[str] = ()
    """Origins such as `https://app.example` whose pages may write to functions and open WebSockets, besides
    those of this machine; `*` for any."""
    speaks_tls: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether a pod's process can speak mutual TLS by the files in `PILOTLIGHT_TLS_DIR`; the activator then
    speaks it with these. None: all is plain HTTP."""
    certificate_lifetimes: Lifetimes = field(default_factory=Lifetimes)
    progress_s: float = 2.0
    """Seconds between the comments in a stream that waits for a start; 0: none."""
    spans: SpanQueue | None = None
    """Where the activator's spans go; None: nobody asks for them."""
    more_metrics: Callable[[], str] | None = None
    """Makes further text for `/metrics`, for what runs beside the platform."""
    pages: AsgiApp | None = None
    """Answers the paths below `/ui` of the API's port, access included, for what runs beside the platform."""
    head_limits: HeadLimits = field(default_factory=HeadLimits)
    """Size and time of a request's head, at the gateway and at the API."""
    api_body_timeout_s: float = 30.0
    """Seconds in which the body of a request to the API has to come."""
    validating: Mapping[Resource, ValidatingFunction] = field(default_factory=dict)
    """Functions that validate objects of a kind before they are stored, as webhooks do on a cluster."""

    @property
    def hosts(self) -> frozenset[str]:
        """The host names that are allowed, in lower case: `allowed_hosts` and the platform's own."""
        own = {self.host} if self.host in _LOOPBACK_HOSTS else {self.host, socket.gethostname()}
        return frozenset(name.lower() for name in (*self.allowed_hosts, *own) if name)

    @property
    def public_host(self) -> str:
        """The address at which clients on this machine reach gateway and API."""
        return LOOPBACK if self.host in _ANY_ADDRESS else self.host
