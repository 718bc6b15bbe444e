"""The stage before the model: tidies what the user has written."""

from functions.sdk import Message, StageRequest, stage


@stage
def clean(request: StageRequest) -> str | list[Message]:
    """One space where several are; none at the ends."""
    if isinstance(request.input, str):
        return " ".join(request.input.split())
    *before, last = request.input
    return [*before, last.model_copy(update={"content": " ".join(last.text.split())})]
