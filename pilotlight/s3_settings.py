"""The `s3` of an agent file: where the model's bucket is, and with whose credentials it is read (pure)."""

from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from pilotlight.agent_values import AgentModel

CA_FOLDER = "/etc/pilotlight/s3-ca"
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_VOLUME = "pilotlight-s3-ca"


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL such as https://s3.example.com")
    if parts.username or parts.password:
        raise ValueError("must hold no credentials: credentialsSecret names a Secret with them")
    return value.rstrip("/")


class CaBundle(AgentModel):
    """Certificate authorities in PEM, in a ConfigMap or a Secret of the agent's namespace."""

    config_map: str | None = Field(default=None, pattern=_NAME)
    secret: str | None = Field(default=None, pattern=_NAME)
    key: str = Field(default="ca.crt", min_length=1)

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.config_map is None) == (self.secret is None):
            raise ValueError("must have exactly one of configMap, secret")
        return self


class S3(AgentModel):
    """An S3 endpoint; without credentials here, those of the pod's account or node are used."""

    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    region: str | None = Field(default=None, min_length=1)
    credentials_secret: str | None = Field(default=None, pattern=_NAME)
    """A Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if any, AWS_SESSION_TOKEN."""
    ca_bundle: CaBundle | None = None

    @property
    def objects(self) -> frozenset[str]:
        """Names of the objects that are needed."""
        bundle = self.ca_bundle
        names = (self.credentials_secret, bundle and bundle.config_map, bundle and bundle.secret)
        return frozenset(name for name in names if name)

    def env(self) -> dict[str, str]:
        """Variables of a container that reads the model."""
        values = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CA_BUNDLE": None if self.ca_bundle is None else f"{CA_FOLDER}/{self.ca_bundle.key}",
        }
        return {name: value for name, value in values.items() if value is not None}

    def env_from(self) -> list[dict[str, Any]]:
        """Sources of further variables."""
        return [] if self.credentials_secret is None else [{"secretRef": {"name": self.credentials_secret}}]

    def volume(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The volume of the certificate authorities and its mount; None without any."""
        bundle = self.ca_bundle
        if bundle is None:
            return None
        items = [{"key": bundle.key, "path": bundle.key}]
        source = (
            {"configMap": {"name": bundle.config_map, "items": items}}
            if bundle.secret is None
            else {"secret": {"secretName": bundle.secret, "items": items}}
        )
        return {"name": _VOLUME, **source}, {"name": _VOLUME, "mountPath": CA_FOLDER, "readOnly": True}
