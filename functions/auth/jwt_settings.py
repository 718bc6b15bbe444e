"""Whose JSON Web Tokens a stage accepts (pure): `PILOTLIGHT_JWT`, and `spec.auth.jwt` of an agent file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel

from functions.auth.caller import CallerLimits


class JwtSettings(BaseModel):
    """Whose tokens are accepted, for whom they must be meant, and what each caller may use."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=to_camel, validate_by_name=True
    )

    issuer: str
    audience: str = Field(min_length=1)
    jwks_uri: str | None = None
    """By default as the issuer's `/.well-known/openid-configuration` says."""
    name_claim: str = "sub"
    """Names the caller in metrics and limits."""
    team_claim: str | None = None
    scope_claim: str = "scope"
    """Scopes separated by spaces, or a list."""
    required_scope: str | None = None
    """A scope that a token must have to call."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    in_flight: int | None = Field(default=None, ge=1)
    tokens_per_day: int | None = Field(default=None, ge=1)

    @field_validator("issuer", "jwks_uri")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("must be a URL such as https://login.example")
        return value

    @property
    def limits(self) -> CallerLimits:
        """Of each caller."""
        return CallerLimits(
            self.requests_per_minute, self.tokens_per_minute, self.in_flight, self.tokens_per_day
        )
