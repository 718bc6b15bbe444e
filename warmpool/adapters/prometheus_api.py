"""Queries of a Prometheus server's HTTP API.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from warmpool.adapters.bounded_body import MAX_BYTES, read_body


class PrometheusError(Exception):
    """There is no result; the message names the server and the cause."""


@dataclass(frozen=True, slots=True)
class PrometheusServer:
    """Where a Prometheus is, and how to be let in.

    Attributes:
        url: its root, with a path where it has one.
        token_file: a bearer token, read at every use because such tokens are rotated; None: none is sent.
        ca_file: certificates that its own is checked against; None: the system's.
        timeout_s: how long one query may take.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 10.0

    @property
    def root(self) -> str:
        """The URL without a slash at its end."""
        return self.url.rstrip("/")

    @property
    def name(self) -> str:
        """The same for messages, without a user and a password."""
        scheme, mark, rest = self.root.partition("://")
        return scheme + mark + rest.rpartition("@")[2] if mark else self.root

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A session for some queries.

        Raises:
            PrometheusError: the file of the token or of the certificates cannot be read.
        """
        headers, connector = {}, None
        try:
            if self.token_file is not None:
                headers["Authorization"] = f"Bearer {self.token_file.read_text(encoding='ascii').strip()}"
            if self.ca_file is not None:
                connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=self.ca_file))
        except (OSError, ValueError) as problem:
            file = getattr(problem, "filename", None) or self.ca_file or self.token_file
            raise PrometheusError(f"Prometheus at {self.name}: {file} cannot be read: {problem}") from problem
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session:
            yield session

    async def query(
        self,
        session: aiohttp.ClientSession,
        endpoint: str,
        parameters: Mapping[str, str],
        *,
        limit: int = MAX_BYTES,
    ) -> tuple[str, Any]:
        """Type and result of a query.

        Args:
            session: of this server.
            endpoint: `query` or `query_range`.
            parameters: as the API names them.
            limit: bytes of the longest response.

        Raises:
            PrometheusError: the server does not answer, or refuses the query.
        """
        given = {**parameters, "timeout": f"{self.timeout_s:g}s"}
        try:
            async with session.post(f"{self.root}/api/v1/{endpoint}", data=given) as response:
                body = json.loads(await read_body(response, limit))
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as problem:
            raise PrometheusError(f"Prometheus at {self.name} does not answer: {problem!r}") from problem
        if not isinstance(body, dict) or body.get("status") != "success":
            error = body.get("error", "no reason given") if isinstance(body, dict) else "not a JSON object"
            raise PrometheusError(
                f"Prometheus at {self.name} refuses the query: HTTP {response.status}: {error}"
            )
        data = body.get("data")
        if not isinstance(data, dict) or not isinstance(data.get("result"), list):
            raise PrometheusError(f"Prometheus at {self.name} returned a success without a result")
        return str(data.get("resultType")), data["result"]
