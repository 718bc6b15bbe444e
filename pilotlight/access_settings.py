"""What an agent file says about who may call (pure)."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from functions.auth.jwt_settings import JwtSettings
from pilotlight.agent_values import AgentModel

KEYS_SECRET = "pilotlight-keys"  # noqa: S105  # the name of an object
"""The Secret that `pilotlight key` writes, one for each namespace."""
INGRESS_NAMESPACES = (
    "knative-serving",
    "kourier-system",
    "istio-system",
    "contour-external",
    "contour-internal",
    "envoy-gateway-system",
)
"""Where Knative's activator and the usual ingresses run."""
OBSERVER_NAMESPACES = ("pilotlight-system", "monitoring")
"""Where the warm-pool controller and, by custom, Prometheus run."""


def _origin(value: str) -> str:
    origin = value.rstrip("/")
    parts = urlsplit(origin)
    if origin != "*" and (
        parts.scheme not in {"http", "https"} or origin != f"{parts.scheme}://{parts.netloc}"
    ):
        raise ValueError("must be an origin such as https://app.example, or *")
    return origin


def _written_short(value: Any) -> Any:
    """`keys` and `none` need nothing beside them."""
    return {"type": value} if isinstance(value, str) else value


Origin = Annotated[str, AfterValidator(_origin)]


class AuthSettings(AgentModel):
    """Whose requests the stages answer: those with a key, those with a token, or anyone's."""

    type: Literal["keys", "jwt", "none"]
    secret: str = Field(default=KEYS_SECRET, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)
    """The Secret with the keys' records."""
    jwt: JwtSettings | None = None

    @model_validator(mode="after")
    def _has_its_settings(self) -> Self:
        if self.type == "jwt" and self.jwt is None:
            raise ValueError("jwt is required with type jwt: jwt: {issuer: https://..., audience: ...}")
        if self.type != "jwt" and self.jwt is not None:
            raise ValueError(f"jwt must be left out with type {self.type}")
        if self.type != "keys" and "secret" in self.model_fields_set:
            raise ValueError(f"secret must be left out with type {self.type}")
        return self


Auth = Annotated[AuthSettings, BeforeValidator(_written_short)]


class NetworkPolicySettings(AgentModel):
    """Which namespaces' pods reach the agent's pods."""

    enabled: bool = True
    ingress_namespaces: list[str] = Field(default_factory=lambda: list(INGRESS_NAMESPACES), min_length=1)
    """Of Knative Serving and of its ingress."""
    observer_namespaces: list[str] = Field(default_factory=lambda: list(OBSERVER_NAMESPACES))
    """Of the warm-pool controller and of Prometheus, which ask the pods themselves."""
