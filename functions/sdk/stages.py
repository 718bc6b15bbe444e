"""`@stage`: a function that is a step of the agent: a request in, text, data or a stream out (pure)."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, get_args, get_origin, overload

from pydantic import BaseModel, JsonValue

from functions.contract import StageReply, StageRequest
from functions.dialogue import Message
from functions.sdk.dependencies import Needs, name_of, read_signature
from functions.sdk.values import Reply

P = ParamSpec("P")
R = TypeVar("R")


class StageFunction(Generic[P, R]):
    """A function that is a stage. Called directly, it is that function."""

    kind = "stage"

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self.name = name_of(function)
        where = f"@stage {self.name}"
        if inspect.isgeneratorfunction(function):
            raise TypeError(f"{where}: a stage that yields must be asynchronous: async def {self.name}(...)")
        signature = read_signature(function, "stage")
        if len(signature.arguments) != 1:
            listed = ", ".join(parameter.name for parameter in signature.arguments) or "none"
            raise TypeError(
                f"{where}: must have one parameter for the request beside its dependencies (there: {listed})"
            )
        self._request = signature.arguments[0]
        annotation = _plain(self._request.annotation)
        if annotation not in {StageRequest, str}:
            raise TypeError(f"{where}: parameter {self._request.name!r} must be a StageRequest or a str")
        self._takes_text = annotation is str
        self.needs: Needs = signature.needs
        self.streams = inspect.isasyncgenfunction(function)
        """Whether it yields its output piece by piece."""
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function itself."""
        return self.function(*args, **kwargs)

    def arguments(self, request: StageRequest) -> dict[str, Any]:
        """The function's argument for a request."""
        return {self._request.name: request.text if self._takes_text else request}

    def definition(self) -> dict[str, JsonValue]:
        """Name and description."""
        return {"type": "stage", "stage": {"name": self.name, "description": inspect.getdoc(self) or ""}}


@overload
def stage(function: Callable[P, R], /) -> StageFunction[P, R]: ...
@overload
def stage() -> Callable[[Callable[P, R]], StageFunction[P, R]]: ...
def stage(
    function: Callable[P, R] | None = None, /
) -> StageFunction[P, R] | Callable[[Callable[P, R]], StageFunction[P, R]]:
    """Make a function a stage of an agent.

    Its parameter for the request is a `StageRequest`, or a `str` for the text alone. It returns

    - a text, or a list of messages: the input of the stage behind;
    - a pydantic model: `data` of the reply, while the input goes on unchanged;
    - a `Reply` with both, or a whole `StageReply`.

    An asynchronous generator yields pieces of text as they come, and may yield one of the others as its last.
    A synchronous function runs in a thread.

    Raises:
        TypeError: the signature cannot be served; the message names function and parameter.
    """
    return StageFunction(function) if function is not None else StageFunction


def reply_of(result: object, request: StageRequest, stage_name: str, text: str | None = None) -> StageReply:
    """What a stage's function returned, as a reply.

    Args:
        result: of the function.
        request: of the caller.
        stage_name: in the agent.
        text: what it has yielded before, where it streams.

    Raises:
        TypeError: it is nothing that a stage may return.
    """
    if isinstance(result, StageReply):
        return result
    if isinstance(result, str):
        result = Reply(output=result)
    elif isinstance(result, BaseModel) and not isinstance(result, Message):
        result = Reply(data=result)
    elif isinstance(result, list | tuple) and result and all(isinstance(item, Message) for item in result):
        result = Reply(output=tuple(result))
    if not isinstance(result, Reply):
        right = "a str, a list of Message, a pydantic model, a Reply or a StageReply"
        raise TypeError(f"stage {stage_name} returned {type(result).__name__}, must be {right}")
    output = result.output if result.output is not None else text
    return StageReply(
        id=request.id,
        stage=stage_name,
        output=request.input if output is None else output,
        data=result.json_data(),
        finish_reason=result.finish_reason,
        usage=result.usage,
        metadata=request.metadata,
    )


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
