"""`@tool`: a function that a model may call, with its description and its parameters' schema (pure)."""

import inspect
import re
from collections.abc import Callable
from functools import update_wrapper
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from functions.problems import ProblemError, field_errors, unprocessable
from functions.sdk.dependencies import Needs, name_of, read_signature

P = ParamSpec("P")
R = TypeVar("R")

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What OpenAI's API takes for a function's name."""


class Tool(Generic[P, R]):
    """A function that a model may call. Called directly, it is that function."""

    kind = "tool"

    def __init__(self, function: Callable[P, R], *, name: str | None, description: str | None) -> None:
        self.function = function
        self.name = name or name_of(function)
        where = f"@tool {self.name}"
        if not TOOL_NAME.fullmatch(self.name):
            raise TypeError(f"{where}: the name must be of letters, digits, _ and -, at most 64")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{where}: a tool returns its result, must not yield")
        signature = read_signature(function, "tool")
        text, parameters = _documentation(function)
        self.description = (description or text).strip()
        if not self.description:
            raise TypeError(f"{where}: needs a docstring: it tells the model what the tool does")
        self.needs: Needs = signature.needs
        self._names = tuple(parameter.name for parameter in signature.arguments)
        self._model = _arguments_model(where, signature.arguments, parameters)
        self.parameters: dict[str, JsonValue] = self._model.model_json_schema(schema_generator=_Untitled)
        """JSON Schema of the arguments."""
        self.parameters.pop("title", None)
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself."""
        return self.function(*args, **kwargs)

    def parse(self, arguments: bytes | str) -> dict[str, Any]:
        """The function's arguments from a JSON object.

        Raises:
            ProblemError: 400 for what is not JSON, 422 for what does not fit; the texts are for the model.
        """
        try:
            parsed = self._model.model_validate_json(arguments)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False)
            if errors[0]["type"] == "json_invalid":
                raise ProblemError(400, f"the arguments are not JSON: {errors[0]['msg']}") from None
            if not errors[0]["loc"]:
                raise ProblemError(422, "the arguments must be a JSON object of the parameters") from None
            raise unprocessable(field_errors(errors)) from None
        # Only what was given: the function has its own defaults.
        given = parsed.model_fields_set
        return {
            name: getattr(parsed, field)
            for field, name in zip(type(parsed).model_fields, self._names, strict=True)
            if field in given
        }

    def definition(self) -> dict[str, JsonValue]:
        """The tool as OpenAI's API describes one."""
        function: dict[str, JsonValue] = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**function, "parameters": self.parameters}}


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    function: Callable[P, R] | None = None, /, *, name: str | None = None, description: str | None = None
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a function a tool: `@tool`, or `@tool(name="search_docs")`.

    Its typed parameters become the JSON schema that the model sees, its docstring the description, and an
    `Args:` section (or `Annotated[..., Field(description=...)]`) the parameters' descriptions. Arguments are
    checked before the function is called. The result is sent as JSON: values, dataclasses, pydantic models.
    Parameters that are dependencies, a `Call` or a `Config` are given to it and are not in the schema. A
    synchronous function runs in a thread.

    Args:
        function: synchronous or asynchronous.
        name: for the model; the function's own by default.
        description: for the model; the docstring up to its sections by default.

    Raises:
        TypeError: the signature cannot be served; the message names function and parameter.
    """
    if function is not None:
        return Tool(function, name=name, description=description)
    return lambda decorated: Tool(decorated, name=name, description=description)


def _arguments_model(
    where: str, arguments: tuple[inspect.Parameter, ...], descriptions: dict[str, str]
) -> type[BaseModel]:
    # Fields have names of their own, because a parameter may be called as a member of the base class is.
    fields: dict[str, Any] = {}
    for position, parameter in enumerate(arguments):
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise TypeError(f"{where}: {parameter} cannot be in a JSON object, must be a named parameter")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{where}: parameter {parameter.name!r} must have a type, for the model's schema")
        described = Field(alias=parameter.name, description=descriptions.get(parameter.name))
        if _says_what_it_is(parameter):
            described = Field(alias=parameter.name)
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"argument_{position}"] = (Annotated[parameter.annotation, described], default)
    try:
        return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
    except Exception as error:  # pydantic has many for types that it cannot read
        raise TypeError(f"{where}: a parameter's type has no JSON schema: {error}") from error


def _says_what_it_is(parameter: inspect.Parameter) -> bool:
    extras = getattr(parameter.annotation, "__metadata__", ())
    return any(isinstance(extra, FieldInfo) and extra.description for extra in extras)


def _documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What a docstring says of the function, and of each parameter."""
    text = inspect.getdoc(function)
    if not text:
        return "", {}
    import docstring_parser  # noqa: PLC0415 - only for documented functions

    parsed = docstring_parser.parse(text)
    whole = "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)
    return whole, {item.arg_name: " ".join((item.description or "").split()) for item in parsed.params}


class _Untitled(GenerateJsonSchema):
    """Without titles, which only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False
