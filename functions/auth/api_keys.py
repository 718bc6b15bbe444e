"""API keys: their text, the record that is kept of each, and the check (pure).

A key is `plk_ID_SECRET`. Its record has the ID, a salt and HMAC-SHA-256 of the secret under the salt, so that
neither a record nor a copy of the whole Secret lets anyone call. The secret has 256 random bits: nobody can
try them, and a slow password hash would only make each request, and each forged one, expensive.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from functions.auth.caller import INVOKE, Caller, CallerLimits

PREFIX = "plk"
SECRET_BYTES = 32
SALT_BYTES = 16
ID_BYTES = 6

_KEY = re.compile(r"plk_([0-9a-f]{12})_([0-9a-f]{64})")
_Limit = Annotated[int, Field(ge=1, le=10**12)] | None


class KeyRecordError(ValueError):
    """A record that cannot be read; the message says why, without the hash."""


class Limits(BaseModel):
    """A record's limits, per replica."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True)

    requests_per_minute: _Limit = None
    tokens_per_minute: _Limit = None
    in_flight: _Limit = None
    tokens_per_day: _Limit = None


class KeyRecord(BaseModel):
    """What is kept of a key: one entry of the Secret, JSON, under the key's name."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None
    agents: tuple[str, ...] = ()
    """Agents that the key may call; empty: every agent of the namespace."""
    scopes: tuple[Literal["invoke", "metrics"], ...] = (INVOKE,)
    team: str = ""
    limits: Limits = Limits()

    def to_json(self) -> str:
        """The entry of the Secret."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made."""

    text: str
    """The key itself: shown once, kept nowhere."""
    record: KeyRecord


def new_key(random: bytes, *, created: datetime, **fields: Any) -> NewKey:
    """A key.

    Args:
        random: `ID_BYTES + SALT_BYTES + SECRET_BYTES` bytes of the system's random source.
        created: the instant.
        fields: further fields of `KeyRecord`.

    Raises:
        ValueError: too few random bytes, or fields that do not fit.
    """
    if len(random) != ID_BYTES + SALT_BYTES + SECRET_BYTES:
        raise ValueError(f"{len(random)} random bytes, must be {ID_BYTES + SALT_BYTES + SECRET_BYTES}")
    key_id, salt = random[:ID_BYTES].hex(), random[ID_BYTES : ID_BYTES + SALT_BYTES].hex()
    secret = random[ID_BYTES + SALT_BYTES :].hex()
    record = KeyRecord(id=key_id, salt=salt, hash=_hash(salt, secret), created=created, **fields)
    return NewKey(f"{PREFIX}_{key_id}_{secret}", record)


def parse_record(text: str) -> KeyRecord:
    """A record.

    Raises:
        KeyRecordError: it is none.
    """
    try:
        return KeyRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "(whole)"
        raise KeyRecordError(f"{where}: {first['msg']}") from None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a key does not open a stage."""

    status: Literal[401, 403]
    detail: str


_Entry: TypeAlias = tuple[str, str, str, datetime | None, tuple[str, ...], tuple[str, ...]]
"""Name, salt, hash, end, agents, scopes. No object that the garbage collector would have to look through: a
thousand records would be a large part of what a stage keeps."""


class KeyRing:
    """The keys of a Secret, found by their IDs.

    Args:
        records: by name.
    """

    def __init__(self, records: Mapping[str, KeyRecord]) -> None:
        self._records = {name: record.to_json() for name, record in records.items()}
        self._entries: dict[str, _Entry] = {
            record.id: (name, record.salt, record.hash, record.expires, record.agents, record.scopes)
            for name, record in records.items()
        }
        self._callers: dict[str, Caller] = {}
        """Of keys that were used."""

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, key: str, *, agent: str | None, scope: str, now: datetime) -> Caller | Refusal:
        """Who the key is; or why it does not open this.

        Args:
            key: as the client sent it.
            agent: the stage's.
            scope: that the request needs.
            now: the instant.
        """
        match = _KEY.fullmatch(key)
        entry = None if match is None else self._entries.get(match[1])
        if match is None or entry is None:
            # A hash is made all the same: the time of a refusal does not tell which IDs there are.
            hmac.compare_digest(_hash(_NO_SALT, key[-64:]), _NO_HASH)
            return _UNKNOWN
        name, salt, kept, expires, agents, scopes = entry
        if not hmac.compare_digest(_hash(salt, match[2]), kept):
            return _UNKNOWN
        if expires is not None and now >= expires:
            return Refusal(401, f"key {name} expired at {expires:%Y-%m-%d %H:%M:%S %Z}")
        if agents and agent not in agents:
            return Refusal(403, f"key {name} is for agent {' and '.join(agents)}, not for {agent}")
        if scope not in scopes:
            return Refusal(403, f"key {name} has scope {' and '.join(scopes)}, this needs {scope}")
        return self._callers.get(name) or self._caller(name)

    def _caller(self, name: str) -> Caller:
        record = parse_record(self._records[name])
        caller = Caller(name, "key", record.team, CallerLimits(**record.limits.model_dump()))
        self._callers[name] = caller
        return caller


def read_records(entries: Iterable[tuple[str, bytes]]) -> tuple[dict[str, KeyRecord], dict[str, str]]:
    """The records of a Secret's entries, and what is wrong with the others, both by name."""
    records: dict[str, KeyRecord] = {}
    wrong: dict[str, str] = {}
    for name, content in entries:
        try:
            records[name] = parse_record(content.decode())
        except (KeyRecordError, UnicodeDecodeError, json.JSONDecodeError) as error:
            wrong[name] = str(error)
    return records, wrong


def _hash(salt: str, secret: str) -> str:
    return hmac.digest(bytes.fromhex(salt), secret.encode(errors="replace"), "sha256").hex()


_NO_SALT = "0" * 2 * SALT_BYTES
_NO_HASH = "0" * 64
_UNKNOWN = Refusal(401, "the key is unknown or was revoked")
