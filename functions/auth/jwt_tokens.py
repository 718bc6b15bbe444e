"""JSON Web Tokens of an OpenID Connect issuer: the check, and the issuer's keys (JWKS), which are cached.

A token is checked without a call to the issuer. Its keys are fetched at the first token, again when they are
an hour old, and when a token names a key that is not among them, but then at most twice a minute, so that
forged tokens cause no load there. While the issuer cannot be reached, keys that are known stay valid.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import jwt

from functions.auth.caller import Caller, is_name
from functions.auth.jwt_settings import JwtSettings

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key alone: with a shared secret, whoever can check a token could make one."""
REFRESH_S = 3600.0
RETRY_S = 30.0
FETCH_S = 5.0
LEEWAY_S = 30.0
"""How far the clocks of issuer and replica may differ."""
MAX_DOCUMENT_BYTES = 1024 * 1024


class InvalidTokenError(Exception):
    """A token that is not accepted; the message is for its sender."""


class IssuerUnreachableError(Exception):
    """The issuer's keys are not known, so no token can be checked."""


class JwtVerifier:
    """Checks tokens.

    Args:
        settings: whose tokens are accepted.
        clock: monotonic seconds.
    """

    def __init__(self, settings: JwtSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._lock = asyncio.Lock()

    async def check(self, token: str) -> Caller:
        """Who the token's subject is.

        Raises:
            InvalidTokenError: it is not acceptable.
            IssuerUnreachableError: the issuer's keys cannot be fetched.
        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError:
            raise InvalidTokenError("the token is no JSON Web Token") from None
        key = await self._key(key_id)
        settings = self._settings
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            raise InvalidTokenError(f"the token is not accepted: {error}") from None
        return self._caller(claims)

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        settings = self._settings
        name = str(claims.get(settings.name_claim, ""))
        if not is_name(name):
            raise InvalidTokenError(f"the token's claim {settings.name_claim} is missing or no name")
        team = str(claims.get(settings.team_claim, "")) if settings.team_claim else ""
        scopes = claims.get(settings.scope_claim, "")
        granted = scopes.split() if isinstance(scopes, str) else scopes
        if settings.required_scope and (
            not isinstance(granted, list) or settings.required_scope not in granted
        ):
            raise InvalidTokenError(f"the token lacks the scope {settings.required_scope}")
        return Caller(name, "jwt", team if is_name(team) else "", settings.limits)

    async def _key(self, key_id: str | None) -> jwt.PyJWK:
        if self._is_due(key_id):
            async with self._lock:
                if self._is_due(key_id):
                    await self._fetch()
        key = self._keys.get(key_id)
        if key is None and key_id is None and len(self._keys) == 1:
            key = next(iter(self._keys.values()))
        if key is not None:
            return key
        if not self._keys:
            raise IssuerUnreachableError(f"the keys of {self._settings.issuer} cannot be fetched now")
        raise InvalidTokenError("the token is signed with a key that its issuer does not have")

    def _is_due(self, key_id: str | None) -> bool:
        now = self._clock()
        if self._tried is not None and now - self._tried < RETRY_S and self._fetched != self._tried:
            return False  # it has just failed
        if self._fetched is None or now - self._fetched > REFRESH_S:
            return True
        return key_id not in self._keys and key_id is not None and now - self._fetched >= RETRY_S

    async def _fetch(self) -> None:
        self._tried = self._clock()
        timeout = aiohttp.ClientTimeout(total=FETCH_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                uri = self._settings.jwks_uri
                if uri is None:
                    base = self._settings.issuer.rstrip("/")
                    found = await _document(session, f"{base}/.well-known/openid-configuration")
                    uri = _jwks_uri(found, self._settings.issuer)
                keys = jwt.PyJWKSet.from_dict(await _document(session, uri)).keys
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, jwt.PyJWTError) as error:
            reason = str(error) or type(error).__name__
            log.warning(
                "the issuer's keys cannot be fetched",
                extra={"issuer": self._settings.issuer, "reason": reason},
            )
            return
        self._keys = {key.key_id: key for key in keys if key.public_key_use in {None, "sig"}}
        self._fetched = self._tried


def _jwks_uri(discovered: dict[str, Any], issuer: str) -> str:
    """Where the keys are.

    Raises:
        ValueError: the document is another issuer's.
        KeyError: it does not say.
    """
    if discovered.get("issuer") != issuer:
        raise ValueError("the discovery document names another issuer")
    return str(discovered["jwks_uri"])


async def _document(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False) as response:
        response.raise_for_status()
        body = await response.content.read(MAX_DOCUMENT_BYTES)
        while len(body) < MAX_DOCUMENT_BYTES and (more := await response.content.read(MAX_DOCUMENT_BYTES)):
            body += more
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - of a text
    return value
