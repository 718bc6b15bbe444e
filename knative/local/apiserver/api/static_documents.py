"""Documents that do not change while the platform runs: version, discovery and OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from knative.client.resources import Object, Resource
from knative.local.apiserver.api import discovery, openapi
from knative.local.apiserver.kind_info import KindInfo

GIT_VERSION = "v1.34.0+pilotlight"
"""The Kubernetes version whose API is followed; clients compare it with their own."""


class StaticDocuments:
    """Answers requests for documents; each is made once.

    Args:
        kinds: the kinds that are served.
        address: the host and port that the API is reached at.
    """

    def __init__(self, kinds: Mapping[Resource, KindInfo], address: str) -> None:
        self._kinds = kinds
        self._address = address
        self._made: dict[str, bytes] = {}

    def answer(self, request: Request, path: str) -> Response | None:
        """The answer to a GET or HEAD, or None if there is no such document."""
        if path == "/openapi/v2":
            return Response(openapi.V2_DOCUMENT, media_type=openapi.V2_MEDIA_TYPE)
        content = self._made.get(path)
        if content is None:
            made = self._make(path)
            if made is None:
                return None
            content = self._made[path] = json.dumps(made, separators=(",", ":")).encode()
        response = Response(content, media_type="application/json")
        if path.startswith("/openapi/v3/") and "hash" in request.query_params:
            response.headers["cache-control"] = "public, immutable"  # the address names the content
        return response

    def _make(self, path: str) -> Object | None:  # noqa: PLR0911  # a table of paths
        kinds = self._kinds
        match path.strip("/").split("/"):
            case ["version"]:
                return _version()
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
            case [""]:
                return {"paths": ["/api", "/apis", "/healthz", "/metrics", "/openapi/v3", "/version"]}
        return None


def _version() -> Object:
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
