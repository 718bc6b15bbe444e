"""`config.runs` of an orchestrate stage as the agent file has it, checked when the file is read (pure)."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from functions.orchestration.runs.config import RunsConfig
from functions.problems import field_errors
from pilotlight.agent_values import AgentModel

RUNS = "runs"
URL_SECRET = "urlSecret"  # noqa: S105  # a name


class UrlSecret(AgentModel):
    """Where the address of the Postgres database is."""

    secret: str = Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    key: str = Field(default="url", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")


@dataclass(frozen=True)
class RunSettings:
    """The runs of an agent."""

    config: RunsConfig
    """What the stage gets."""
    url_secret: UrlSecret | None = None


def run_settings(config: dict[str, Any]) -> RunSettings | None:
    """The runs that a stage's `config` asks for; None without any.

    Raises:
        ValueError: names the field, its value and what would be right.
    """
    runs = config.get(RUNS)
    if runs is None:
        return None
    if not isinstance(runs, dict):
        raise ValueError(f"config.runs = {runs!r}, must be a mapping such as {{store: sqlite}}")  # noqa: TRY004
    rest = {name: value for name, value in runs.items() if name != URL_SECRET}
    try:
        checked = RunsConfig.model_validate_json(json.dumps(rest))
        secret = None if URL_SECRET not in runs else UrlSecret.model_validate(runs[URL_SECRET])
    except ValidationError as error:
        first = field_errors(error.errors(include_url=False, include_context=False))[0]
        name = "runs" if first["field"] == "body" else f"runs.{first['field']}"
        raise ValueError(f"config.{name} = {first['value']!r}: {first['message']}") from None
    if checked.store == "postgres" and secret is None:
        raise ValueError(
            "config.runs.urlSecret is missing, must be {secret: NAME, key: url} with store postgres, whose "
            "address has a password"
        )
    if checked.store == "sqlite" and secret is not None:
        raise ValueError("config.runs.urlSecret is for store postgres")
    return RunSettings(config=checked, url_secret=secret)
