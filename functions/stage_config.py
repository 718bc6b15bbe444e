"""The base of what an agent file says in a stage's `config` (pure): agent files are checked with it too."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class StageConfig(BaseModel):
    """Base of a stage kind's own settings: names as in the agent file (`maxCharacters`), strict, frozen."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )
