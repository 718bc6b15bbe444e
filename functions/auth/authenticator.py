"""Decides who sent a request, before anything of it is read but its header fields."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from functions.auth.api_keys import KeyRing, Refusal, read_records
from functions.auth.caller import ANYONE, INVOKE, METRICS, Caller, parse_origin
from functions.auth.jwt_settings import JwtSettings
from functions.auth.jwt_tokens import InvalidTokenError, IssuerUnreachableError, JwtVerifier
from functions.auth.secret_folder import SecretFolder
from functions.auth.stage_token import HEADER, ORIGIN_HEADER, StageToken
from functions.problems import ProblemError, field_errors
from functions.settings import FunctionSettings, SettingsError
from knative import env_vars

log = logging.getLogger(__name__)

AUTHORIZATION = b"authorization"
API_KEY = b"x-api-key"
STAGE_TOKEN = HEADER.lower().encode()
ORIGIN = ORIGIN_HEADER.lower().encode()
CREDENTIALS = frozenset({AUTHORIZATION, API_KEY, STAGE_TOKEN, ORIGIN})
"""Header fields that say who calls; they go no further than this stage."""
FORWARDED = frozenset({b"forwarded", b"x-forwarded-for"})
"""Fields that every gateway adds: who sends a request to a pod itself, as a scraper does, sends neither."""
READ = CREDENTIALS | FORWARDED

OPEN_PATHS = frozenset({"/healthz/live", "/healthz/ready", "/health", "/ping", "/version"})
"""Answered to anyone: load balancers and the kubelet have no key, and the answer tells of no request."""
_GUARDED_PAGES = frozenset({"/metrics", "/openapi.json"})
_ADMIN = "/admin/"
"""Paths with a token of their own."""
_LONGEST = 16 * 1024


class Authenticator:
    """Checks the credentials of requests to one stage.

    Args:
        settings: the kind of credentials, and where keys and tokens are.
        now: the wall clock.

    Raises:
        SettingsError: `PILOTLIGHT_JWT` does not fit.
    """

    def __init__(self, settings: FunctionSettings, now: Callable[[], datetime] | None = None) -> None:
        self._settings = settings
        self._now = now or (lambda: datetime.now(UTC))
        self._folder = None if settings.keys_dir is None else SecretFolder(settings.keys_dir)
        self._ring = KeyRing({})
        self._ring_version: int | None = None
        self._jwt = None if settings.jwt is None else JwtVerifier(_jwt_settings(settings.jwt))
        self._stage_token = stage_token_of(settings)

    async def authenticate(self, path: str, headers: Mapping[bytes, bytes]) -> Caller:
        """Who sent the request.

        Args:
            path: of the request.
            headers: those of `READ`, names in lower case.

        Raises:
            ProblemError: 401 without a valid credential, 403 with one that does not suffice, 503 while the
                issuer of tokens cannot be reached.
        """
        if path in OPEN_PATHS or path.startswith(_ADMIN):
            return ANYONE
        if (token := headers.get(STAGE_TOKEN)) is not None and self._stage_token is not None:
            if self._stage_token.accepts(token):
                return parse_origin(_text(headers.get(ORIGIN)))
            raise _unauthorized("the token of the agent's stages is wrong, or was replaced twice since")
        if self._is_open(path, headers):
            return ANYONE
        scope = METRICS if path in _GUARDED_PAGES else INVOKE
        credential = _credential(headers)
        if credential is None:
            raise _unauthorized(_MISSING[self._settings.auth or "stages"])
        match self._settings.auth:
            case "jwt":
                return await self._check_jwt(credential)
            case "keys":
                return self._check_key(credential, scope)
        raise _unauthorized(_MISSING["stages"])

    def _is_open(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        if path in _GUARDED_PAGES and not FORWARDED & headers.keys():
            return True
        return self._settings.auth in {None, "none"}

    def _check_key(self, key: str, scope: str) -> Caller:
        found = self._keys().check(key, agent=self._settings.agent, scope=scope, now=self._now())
        if not isinstance(found, Refusal):
            return found
        if found.status == 401:
            raise _unauthorized(found.detail)
        raise ProblemError(403, found.detail, title="Key not sufficient")

    async def _check_jwt(self, token: str) -> Caller:
        assert self._jwt is not None
        try:
            return await self._jwt.check(token)
        except InvalidTokenError as error:
            raise _unauthorized(str(error)) from None
        except IssuerUnreachableError as error:
            raise ProblemError(503, str(error), title="Issuer unreachable", retry_after=5.0) from None

    def _keys(self) -> KeyRing:
        if self._folder is None:
            return self._ring
        entries = self._folder.entries()
        if self._folder.version != self._ring_version:
            records, wrong = read_records(entries.items())
            for name, reason in wrong.items():
                log.warning("a key's record cannot be read", extra={"key": name, "reason": reason})
            self._ring, self._ring_version = KeyRing(records), self._folder.version
        return self._ring


def stage_token_of(settings: FunctionSettings) -> StageToken | None:
    """The token of the agent's stages; None where they have none."""
    folder = settings.stage_token_dir
    return None if folder is None else StageToken(SecretFolder(folder))


def _jwt_settings(values: Mapping[str, Any]) -> JwtSettings:
    try:
        return JwtSettings.model_validate(values)
    except ValidationError as error:
        found = field_errors(error.errors(include_url=False, include_context=False))
        raise SettingsError(
            tuple(f"{env_vars.JWT}.{one['field']} = {one['value']!r}: {one['message']}" for one in found)
        ) from None


def _credential(headers: Mapping[bytes, bytes]) -> str | None:
    """The key or token of a request: `Authorization: Bearer` comes first, as OpenAI's clients send it."""
    value = headers.get(AUTHORIZATION)
    if value is not None:
        scheme, _, credential = value[:_LONGEST].partition(b" ")
        return _text(credential.strip()) if scheme.lower() == b"bearer" else None
    return _text(headers.get(API_KEY))


def _text(value: bytes | None) -> str | None:
    return value[:_LONGEST].decode("latin-1") if value else None


_MISSING = {
    "keys": "a key is required: Authorization: Bearer KEY, or X-API-Key: KEY",
    "jwt": "a token is required: Authorization: Bearer TOKEN",
    "stages": "only the agent's own stages may call this one",
}


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(401, detail, title="Not authenticated")
