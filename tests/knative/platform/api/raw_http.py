"""Plain requests to the API, and small objects to send."""

import json
from typing import Any

import yaml

from tests.knative.platform.conftest import LocalCluster

CMS = "/api/v1/namespaces/default/configmaps"
KSVCS = "/apis/serving.knative.dev/v1/namespaces/default/services"
MERGE = "application/merge-patch+json"


def config_map(name: str = "cm", data: dict[str, str] | None = None, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", **meta}, "data": data or {"a": "1"}}


class Raw:
    """Plain requests to the API."""

    def __init__(self, local: LocalCluster) -> None:
        user = yaml.safe_load(local.platform.kubeconfig.read_text())["users"][0]["user"]
        self.base = local.platform.api_url
        self.headers = {"Authorization": f"Bearer {user['token']}"}
        self.http = local.http

    async def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, Any]:
        """Status, body, headers."""
        content = body if isinstance(body, (str, bytes)) or body is None else json.dumps(body)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        async with self.http.request(
            method, f"{self.base}{path}", data=content, headers={**self.headers, **named}
        ) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json and text else text, answer.headers
