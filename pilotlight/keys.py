"""The Secrets of those who may call: records of keys, and the token of an agent's stages."""

import base64
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from functions.auth.api_keys import (
    ID_BYTES,
    SALT_BYTES,
    SECRET_BYTES,
    KeyRecord,
    KeyRecordError,
    new_key,
    parse_record,
)
from functions.auth.stage_token import CURRENT, PREVIOUS
from knative.client.cluster import Cluster
from knative.client.errors import AlreadyExists, Conflict, NotFound
from knative.client.resources import SECRET, Object
from knative.labels import AGENT_LABEL, ROTATED_AT_ANNOTATION
from pilotlight.compile_access import stage_token_secret

_ATTEMPTS = 5
_TOKEN_BYTES = 32
ROTATION_PAUSE = timedelta(minutes=5)
"""From one rotation to the next: a cluster needs up to two minutes to hand a Secret to every pod."""


class KeysError(RuntimeError):
    """What was asked of the keys cannot be done; the text says why."""


async def create(cluster: Cluster, secret: str, namespace: str, name: str, **fields: Any) -> str:
    """Make a key and keep its record; the key itself, which is kept nowhere.

    Args:
        cluster: where the Secret is.
        secret: its name; it is made if there is none.
        namespace: its namespace.
        name: of the key.
        fields: further fields of its record.

    Raises:
        KeysError: there is a key of this name.
        ClusterError: the server refuses.
    """
    random = secrets.token_bytes(ID_BYTES + SALT_BYTES + SECRET_BYTES)
    made = new_key(random, created=datetime.now(UTC).replace(microsecond=0), **fields)
    entry = {name: _encoded(made.record.to_json())}
    for _ in range(_ATTEMPTS):
        try:
            found = await cluster.get(SECRET, secret, namespace)
        except NotFound:
            body = {"metadata": {"name": secret, "namespace": namespace}, "type": "Opaque", "data": entry}
            try:
                await cluster.create(SECRET, body)
            except AlreadyExists:
                continue
            return made.text
        if name in (found.get("data") or {}):
            raise KeysError(f"key {namespace}/{name} exists; revoke it first, or choose another name")
        version = found["metadata"]["resourceVersion"]
        try:
            await cluster.patch(
                SECRET, secret, namespace, {"metadata": {"resourceVersion": version}, "data": entry}
            )
        except Conflict:
            continue
        return made.text
    raise KeysError(f"secret {namespace}/{secret} changes all the time; try again")


async def listed(cluster: Cluster, secret: str, namespace: str) -> Mapping[str, KeyRecord | None]:
    """The records by name; None for one that cannot be read."""
    try:
        found = await cluster.get(SECRET, secret, namespace)
    except NotFound:
        return {}
    return {name: _record(value) for name, value in sorted((found.get("data") or {}).items())}


async def revoke(cluster: Cluster, secret: str, namespace: str, name: str) -> None:
    """Remove a key's record.

    Raises:
        KeysError: there is no key of this name.
    """
    if name not in await listed(cluster, secret, namespace):
        raise KeysError(f"there is no key {namespace}/{name}; pilotlight key ls shows those that there are")
    await cluster.patch(SECRET, secret, namespace, {"data": {name: None}})


async def ensure_stage_token(cluster: Cluster, agent: str, namespace: str) -> bool:
    """Make the token of an agent's stages if there is none; whether it was made."""
    name = stage_token_secret(agent)
    try:
        await cluster.get(SECRET, name, namespace)
    except NotFound:
        try:
            await cluster.create(SECRET, _token_secret(name, namespace, agent))
        except AlreadyExists:
            return False
        return True
    return False


async def rotate_stage_token(cluster: Cluster, agent: str, namespace: str, *, force: bool = False) -> None:
    """Replace the token of an agent's stages; the one before stays valid until the next rotation.

    Raises:
        KeysError: the last rotation was too short a time ago for every pod to have seen it.
    """
    if await ensure_stage_token(cluster, agent, namespace):
        return
    name, now = stage_token_secret(agent), datetime.now(UTC)
    found = await cluster.get(SECRET, name, namespace)
    rotated = (found["metadata"].get("annotations") or {}).get(ROTATED_AT_ANNOTATION)
    if rotated and not force and now - datetime.fromisoformat(rotated) < ROTATION_PAUSE:
        raise KeysError(
            f"the token of {namespace}/{agent} was replaced at {rotated}: stages that have not seen it yet "
            f"would be refused; wait {ROTATION_PAUSE.seconds // 60} minutes, or give --force"
        )
    body = {
        "metadata": {
            "resourceVersion": found["metadata"]["resourceVersion"],
            "annotations": {ROTATED_AT_ANNOTATION: now.isoformat(timespec="seconds")},
        },
        "data": {
            CURRENT: _encoded(secrets.token_urlsafe(_TOKEN_BYTES)),
            PREVIOUS: (found.get("data") or {}).get(CURRENT),
        },
    }
    await cluster.patch(SECRET, name, namespace, body)


def _token_secret(name: str, namespace: str, agent: str) -> Object:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {AGENT_LABEL: agent}},
        "type": "Opaque",
        "data": {CURRENT: _encoded(secrets.token_urlsafe(_TOKEN_BYTES))},
    }


def _record(value: str) -> KeyRecord | None:
    try:
        return parse_record(base64.b64decode(value).decode())
    except (KeyRecordError, ValueError):
        return None


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
