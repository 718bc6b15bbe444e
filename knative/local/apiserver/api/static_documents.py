"""What never changes while the platform runs: version, discovery and OpenAPI, with what caches need to know.

`kubectl` keeps these answers on disk. It asks again with the ETag it has, and it never asks again for an
OpenAPI document whose address names its content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from knative.client.resources import Object, Resource
from knative.local.apiserver.api import discovery, openapi
from knative.local.apiserver.kinds import KindInfo

GIT_VERSION = "v1.34.0+pilotlight"
"""The Kubernetes version whose API is followed; clients compare it with their own."""


@dataclass(frozen=True, slots=True)
class _Document:
    content: bytes
    media_type: str
    digest: str


class StaticDocuments:
    """Answers requests for documents; each is made once.

    Args:
        kinds: the kinds that exist.
        address: the host and port that the API is reached at.
    """

    def __init__(self, kinds: Mapping[Resource, KindInfo], address: str) -> None:
        self._kinds = kinds
        self._address = address
        self._made: dict[tuple[str, str | None], _Document] = {}

    def answer(self, request: Request, path: str) -> Response | None:
        """The answer to a GET or HEAD, or None if there is no such document."""
        version = None
        if path in ("/api", "/apis"):
            version = discovery.aggregated_version(request.headers.get("accept", ""))
        found = self._made.get((path, version))
        if found is None:
            content = self._make(path, version)
            if content is None:
                return None
            found = self._made[path, version] = _document(content, version)
        headers = {"etag": f'"{found.digest}"', "vary": "Accept"}
        if path in ("/api", "/apis"):
            headers["cache-control"] = "public"
        if path.startswith("/openapi/v3/") and (named := request.query_params.get("hash")) is not None:
            if named != found.digest:
                return RedirectResponse(f"{path}?hash={found.digest}", 301)
            headers["cache-control"] = "public, immutable"
        given = request.headers.get("if-none-match")
        if given is not None and headers["etag"] in (item.strip() for item in given.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type=found.media_type, headers=headers)

    def _make(self, path: str, aggregated: str | None) -> Object | None:  # noqa: C901, PLR0911  # a table of paths
        kinds = self._kinds
        match path.strip("/").split("/"):
            case ["version"]:
                return version()
            case ["api" | "apis" as root] if aggregated is not None:
                return discovery.aggregated(kinds, aggregated, core=root == "api")
            case ["api"]:
                return discovery.core_versions(self._address)
            case ["apis"]:
                return discovery.group_list(kinds)
            case ["apis", group]:
                return discovery.group(kinds, group)
            case ["api", number]:
                return discovery.resource_list(kinds, "", number)
            case ["apis", group, number]:
                return discovery.resource_list(kinds, group, number)
            case ["openapi", "v3"]:
                return openapi.index(kinds)
            case ["openapi", "v3", *rest]:
                return openapi.document(kinds, "/".join(rest))
            case ["openapi", "v2"]:
                return openapi.v2(kinds)
            case [""]:
                return {"paths": ["/api", "/apis", "/healthz", "/metrics", "/openapi/v3", "/version"]}
        return None


def _document(content: Object, version: str | None) -> _Document:
    data = json.dumps(content, separators=(",", ":")).encode()
    kind = "application/json" if version is None else discovery.media_type(version)
    return _Document(data, kind, openapi.digest(content))


def version() -> Object:
    """`/version`."""
    major, minor, _ = GIT_VERSION.removeprefix("v").split(".", 2)
    return {
        "major": major,
        "minor": minor,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }
