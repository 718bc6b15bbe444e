"""Checks objects as a real API server with `fieldValidation=Strict` does, by its own schemas."""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema

FILE = Path(__file__).parent / "data" / "kubernetes_schemas.json"


@functools.cache
def _document() -> dict[str, Any]:
    return json.loads(FILE.read_text())


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    document = _document()
    schema = {**document["kinds"][kind], "$defs": document["$defs"]}
    return jsonschema.Draft202012Validator(schema)


def known(obj: dict[str, Any]) -> bool:
    """Whether there is a schema of the object's kind."""
    return f"{obj['apiVersion']} {obj['kind']}" in _document()["kinds"]


def faults(obj: dict[str, Any]) -> list[str]:
    """What is wrong with an object, each with its path."""
    found = _validator(f"{obj['apiVersion']} {obj['kind']}").iter_errors(obj)
    return [f"{error.json_path}: {error.message}" for error in found]
