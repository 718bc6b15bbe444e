"""Types of single values in an agent file, and the base of its models (pure)."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

from knative.literals import parse_duration, parse_quantity

LONGEST_NAME = 57
"""Characters of a Service's name: a Revision is called NAME-00001, and its label's value may have 63."""

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_URI = re.compile(r"(s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/.*)?|file://.+|[./~].*)")


class AgentModel(BaseModel):
    """Base of every model of the agent file: fields in camel case, unknown ones refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=False, strict=False
    )


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value) or len(value) > LONGEST_NAME:
        raise ValueError(
            f"must be lower-case letters, digits and '-', first a letter, at most {LONGEST_NAME} long"
        )
    return value


def _duration(value: str) -> str:
    seconds = parse_duration(value)
    if seconds is None or seconds < 0:
        raise ValueError("must be a duration such as 30s, 90s or 10m")
    return value


def _quantity(value: object) -> object:
    text = str(value)
    amount = None if isinstance(value, bool) else parse_quantity(text)
    if amount is None or amount < 0:
        raise ValueError("must be a Kubernetes quantity such as 1, 500m or 8Gi")
    return text


def model_uri(value: str) -> str:
    """The value itself, if it is the address of a model.

    Raises:
        ValueError: it is none; the text says what would be right.
    """
    if not _URI.fullmatch(value):
        raise ValueError("must be s3://BUCKET/PREFIX, file:///FOLDER or a path starting with / ./ or ~")
    return value


def _engine_option(value: object) -> object:
    """An option's value, which has to be JSON: vLLM takes mappings, and some lists, as JSON texts."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for inner in value.values():
            _engine_option(inner)
    elif isinstance(value, list):
        for inner in value:
            _engine_option(inner)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"must be a text, a number, true, false, null, a list or a mapping with texts as keys, "
            f"not a {type(value).__name__}; quote it to make it a text"
        )
    return value


Label = Annotated[str, AfterValidator(_label)]
Duration = Annotated[str, AfterValidator(_duration)]
Quantity = Annotated[str, BeforeValidator(_quantity)]
EngineOption = Annotated[Any, AfterValidator(_engine_option)]
