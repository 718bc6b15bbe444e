"""The data of ConfigMaps and Secrets: keys that can be file names, and values in base64 (pure).

After k8s.io/apimachinery, `IsConfigMapKey` in `pkg/util/validation/validation.go`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from knative.client.errors import Cause

_MAX_KEY = 253
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_KEY_RULE = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
    "(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def key_violations(data: Mapping[str, Any], field: str) -> Iterator[Cause]:
    """The keys that cannot be file names."""
    for key in data:
        if len(key) > _MAX_KEY:
            rule = f"must be no more than {_MAX_KEY} characters"
        elif not _KEY.fullmatch(key):
            rule = _KEY_RULE
        elif key == "." or key.startswith(".."):
            rule = "must not be '.'" if key == "." else "must not start with '..'"
        else:
            continue
        shown = key[:_MAX_KEY]
        yield Cause(f'Invalid value: "{shown}": {rule}', f"{field}[{shown}]", "FieldValueInvalid")


def not_base64(data: Mapping[str, str], field: str) -> Iterator[Cause]:
    """The values that are not base64."""
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except ValueError:  # not in the alphabet, or not ASCII
            yield Cause("illegal base64 data", f"{field}.{key}", "FieldValueInvalid")
