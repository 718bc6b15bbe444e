"""The Kubernetes client: the only module that talks to a Kubernetes API.

Everything in the project that reads or writes cluster objects uses `Cluster`, so no other module knows
whether the API is that of a real cluster with Knative or `knative.local` on this machine. Objects are plain
JSON dictionaries, as the API sends them, because the project's kinds are custom resources whose schemas
belong to the server.

lightkube supplies kubeconfig, contexts, credentials (tokens, token files, client certificates, exec
plugins) and TLS. Its typed verbs are not used: they cannot ask for strict field validation, without which
the server silently drops a misspelled field. The decision is recorded in
docs/adr/0005-kubernetes-client.md.

Errors are those of `knative.client.errors`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx2
import msgspec
import yaml
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError

from knative.client.errors import ClusterError, Expired, Forbidden, NotFound, Unavailable, error_of
from knative.client.known_objects import KnownObjects, WatchEventType
from knative.client.proxies import is_loopback, proxy_for
from knative.client.resources import POD, Object, Resource

log = logging.getLogger(__name__)

Propagation = Literal["Background", "Foreground", "Orphan"]

_Objects = list[Object]  # inside `Cluster`, `list` is a method
_Lines = list[str]

_PAGE = 500  # objects per page of a list; the size kubectl asks for
_LONGEST_DELAY = 5.0  # longest wait before a broken watch is opened again, in seconds
_SHOWN = 200  # characters of a line of a watch that an error shows
_WATCH_SECONDS = 240  # the server ends a watch after so many seconds, so that a dead connection is noticed


# What lightkube raises for a kubeconfig that is missing, not YAML, or not of the right shape.
_UNUSABLE = (
    ConfigError,
    OSError,
    yaml.YAMLError,
    msgspec.MsgspecError,
    AttributeError,
    KeyError,
    TypeError,
)


class Cluster:
    """A Kubernetes API, whichever one the kubeconfig names.

    Use as an async context manager, or call `close()`. Every method raises a `ClusterError`; none retries,
    because only the caller knows what a retry would cost, except `watch`, which never ends by itself.
    """

    def __init__(self, config: SingleConfig, *, on_warning: Callable[[str], None] | None = None) -> None:
        """Connect, at the first request, to what `config` names.

        Args:
            config: a context of a kubeconfig.
            on_warning: receives the server's warnings; without it they are logged.
        """
        timeout = httpx2.Timeout(30, connect=5)
        # As client-go does: loopback is never reached through a proxy, whatever the environment says.
        proxied = not is_loopback(urlsplit(config.cluster.server).hostname or "")
        self._http = AsyncClient(config, ConnectionParams(timeout=timeout, trust_env=proxied))
        self._proxy = proxy_for(config.cluster.server) if proxied else None
        self._on_warning = on_warning or log.warning
        self.server: str = config.cluster.server
        self.namespace: str = config.namespace
        self.context: str = config.context_name

    @classmethod
    def from_kubeconfig(
        cls,
        path: Path | None = None,
        context: str | None = None,
        *,
        on_warning: Callable[[str], None] | None = None,
    ) -> Self:
        """The cluster of a kubeconfig; by default the pod's account, `$KUBECONFIG` or `~/.kube/config`.

        Raises `ClusterError` (status None) when there is no usable configuration.
        """
        try:
            loaded = KubeConfig.from_file(path) if path is not None else KubeConfig.from_env()
            config = loaded.get(context)
            if config is None:
                raise KeyError("current-context")  # reported like the other errors
            return cls(config, on_warning=on_warning)
        except _UNUSABLE as problem:
            where = str(path) if path is not None else "the environment"
            raise ClusterError(None, "Config", f"no usable kubeconfig in {where}: {problem}") from problem

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def version(self) -> Object:
        """The server's `/version`: `gitVersion`, `major`, `minor`, ..."""
        return await self._call("GET", "version")

    async def groups(self) -> frozenset[str]:
        """Names of the API groups that the server has, without the core group."""
        return frozenset(group["name"] for group in (await self._call("GET", "apis"))["groups"])

    async def get(self, res: Resource, name: str, namespace: str | None = None) -> Object:
        """One object; `NotFound` if there is none."""
        return await self._call("GET", res.path(namespace, name))

    async def list(
        self,
        res: Resource,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> list[Object]:
        """All objects of a kind, in one namespace or (None) in all, page by page."""
        pages = self.pages(res, namespace, label_selector, field_selector)
        return [obj async for page, _ in pages for obj in page]

    async def pages(
        self,
        res: Resource,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> AsyncIterator[tuple[_Objects, str]]:
        """The objects of `list` a page at a time, each page with the version that the list was taken at.

        For callers that keep little of each object: ten thousand whole ones are a hundred megabytes. A page
        is emptied when the next one is requested.
        """
        params: dict[str, str] = {"limit": str(_PAGE)}
        if label_selector:
            params["labelSelector"] = label_selector
        if field_selector:
            params["fieldSelector"] = field_selector
        while True:
            page = await self._call("GET", res.path(namespace), params)
            following, version = page["metadata"].get("continue"), page["metadata"]["resourceVersion"]
            # Lists of built-in kinds leave these two out of the items.
            objects: _Objects = [
                {"apiVersion": res.api_version, "kind": res.kind} | item
                for item in page.pop("items", None) or []
            ]
            yield objects, version
            objects.clear()
            if not following:
                return
            params["continue"] = following

    async def create(self, res: Resource, obj: Object, *, dry_run: bool = False) -> Object:
        """Create `obj`; `AlreadyExists` if there is one of its name."""
        return await self._call(
            "POST", res.path(_namespace(obj)), _write_params(dry_run=dry_run), _typed(res, obj)
        )

    async def apply(
        self,
        res: Resource,
        obj: Object,
        *,
        field_manager: str = "pilotlight",
        force: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply: create or merge, owning the fields of `obj`; `Conflict` if another owns one."""
        params = _write_params(dry_run=dry_run) | {"fieldManager": field_manager}
        if force:
            params["force"] = "true"
        path = res.path(_namespace(obj), obj["metadata"]["name"])
        return await self._call("PATCH", path, params, _typed(res, obj), "application/apply-patch+yaml")

    async def patch(
        self,
        res: Resource,
        name: str,
        namespace: str | None,
        body: Object,
        *,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Merge `body` into the object (RFC 7396).

        A `metadata.resourceVersion` in `body` makes it fail with `Conflict` if the object changed since.
        """
        path = res.path(namespace, name, subresource)
        return await self._call(
            "PATCH", path, _write_params(dry_run=dry_run), body, "application/merge-patch+json"
        )

    async def replace(self, res: Resource, obj: Object, *, subresource: str | None = None) -> Object:
        """Replace an object by `obj`; `Conflict` if its resourceVersion is not the current one."""
        path = res.path(_namespace(obj), obj["metadata"]["name"], subresource)
        return await self._call("PUT", path, _write_params(dry_run=False), _typed(res, obj))

    async def delete(
        self,
        res: Resource,
        name: str,
        namespace: str | None = None,
        *,
        propagation: Propagation = "Background",
        uid: str | None = None,
    ) -> None:
        """Delete an object; with `uid`, only that incarnation of it (`Conflict` otherwise)."""
        options: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
        }
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        await self._call("DELETE", res.path(namespace, name), None, options)

    async def pod_log(self, name: str, namespace: str, *, tail_lines: int | None = None) -> _Lines:
        """The lines that a pod's only container has written, or the last ones of them.

        `Invalid` while the container has not started.
        """
        params = {} if tail_lines is None else {"tailLines": str(tail_lines)}
        response = await self._request("GET", POD.path(namespace, name, "log"), params, accept="*/*")
        return response.text.splitlines()

    async def watch(  # noqa: C901  # one loop, one branch for each way that a watch ends
        self,
        res: Resource,
        namespace: str | None = None,
        label_selector: str | None = None,
    ) -> AsyncIterator[tuple[WatchEventType, Object]]:
        """The existing objects as ADDED, then every change. Never ends by itself.

        When the connection drops or the server has forgotten the version, the objects are listed again and
        the difference is reported, deletions included, so a caller's copy stays complete. `Forbidden` and
        `NotFound` (of the kind) are raised; everything else is retried with a growing delay.
        """
        known = KnownObjects(res)
        version: str | None = None
        listed = ""
        failures = 0
        while True:
            try:
                if version is None:
                    known.begin_list()
                    async for page, listed in self.pages(res, namespace, label_selector):  # noqa: B007  # used after it
                        for event in known.list_page(page):
                            yield event
                    for event in known.end_list():
                        yield event
                    version = listed
                async for kind, obj in self._watch_once(res, namespace, label_selector, version):
                    version = obj["metadata"]["resourceVersion"]
                    failures = 0
                    if kind == "BOOKMARK":
                        continue
                    known.change(kind, obj)
                    yield kind, obj
                    del obj  # the caller has what it wants of it, and the next one may be long in coming
            except (Forbidden, NotFound):
                raise
            except Expired:
                version = None
            except ClusterError as problem:
                failures += 1
                version = None
                log.debug("watch of %s dropped: %s", res.plural, problem)
            if failures:
                delay = min(0.25 * 2 ** min(failures, 5), _LONGEST_DELAY)
                await asyncio.sleep(delay * (0.5 + random.random() / 2))  # noqa: S311  # spreads reconnects

    async def _watch_once(
        self, res: Resource, namespace: str | None, label_selector: str | None, version: str
    ) -> AsyncIterator[tuple[Any, Object]]:
        params = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        if label_selector:
            params["labelSelector"] = label_selector
        timeout = httpx2.Timeout(_WATCH_SECONDS + 30, connect=5)
        request = self._http.build_request("GET", res.path(namespace), params=params, timeout=timeout)
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code >= 300:
                    raise error_of(
                        response.status_code, await response.aread(), response.headers.get("retry-after")
                    )
                async for line in response.aiter_lines():
                    yield _watch_event(line)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, ValueError) as problem:
            raise Unavailable(None, "Unreachable", f"watch of {res.plural} broke: {problem!r}") from problem

    async def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        response = await self._request(method, path, params, body, content_type)
        try:
            answer = response.json()
        except ValueError as problem:
            raise Unavailable(
                response.status_code, "NotJSON", f"{self.server} answered without JSON"
            ) from problem
        if not isinstance(answer, dict):
            raise Unavailable(response.status_code, "NotJSON", f"{self.server} answered without an object")
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        *,
        accept: str = "application/json",
    ) -> httpx2.Response:
        content = None if body is None else json.dumps(body).encode()
        headers = {"accept": accept}
        if content is not None:
            headers["content-type"] = content_type
        try:
            response = await self._http.request(method, path, params=params, content=content, headers=headers)
        except httpx2.HTTPError as problem:
            detail = str(problem) or type(problem).__name__
            through = f" through the proxy {self._proxy}" if self._proxy else ""
            text = f"no answer from {self.server}{through}: {detail}"
            raise Unavailable(None, "Unreachable", text) from problem
        except ConfigError as problem:  # credentials that are fetched at the first request
            raise Forbidden(None, "Config", str(problem)) from problem
        for warning in response.headers.get_list("warning"):
            self._on_warning(_warning_text(warning))
        if response.status_code >= 300:
            raise error_of(response.status_code, response.content, response.headers.get("retry-after"))
        return response


def _namespace(obj: Object) -> str | None:
    namespace: str | None = obj["metadata"].get("namespace")
    return namespace


def _typed(res: Resource, obj: Object) -> Object:
    return {"apiVersion": res.api_version, "kind": res.kind} | obj


def _write_params(*, dry_run: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})


def _warning_text(header: str) -> str:
    """The text of `299 - "text"`, RFC 7234 section 5.5."""
    _, _, quoted = header.partition('"')
    return quoted.removesuffix('"').replace('\\"', '"') if quoted else header


def _watch_event(line: str) -> tuple[Any, Object]:
    """Type and object of a line of a watch.

    Raises:
        ClusterError: the line says that the watch has failed.
        ValueError: it is not an event, or not one about an object.
    """
    event = json.loads(line)
    kind, obj = (event.get("type"), event.get("object")) if isinstance(event, dict) else (None, None)
    if not isinstance(obj, dict):
        raise ValueError(f"not a watch event: {line[:_SHOWN]}")  # noqa: TRY004  # of a text, not of an argument
    if kind == "ERROR":
        raise error_of(500, json.dumps(obj).encode(), None)
    meta = obj.get("metadata")
    needed = ("resourceVersion",) if kind == "BOOKMARK" else ("resourceVersion", "name")
    if not isinstance(meta, dict) or not all(isinstance(meta.get(name), str) for name in needed):
        raise ValueError(f"not a watch event about an object: {line[:_SHOWN]}")
    return kind, obj
