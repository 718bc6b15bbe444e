"""Which of two models answers: the small one, unless the question is long or asks for reasons."""

from typing import Literal

from pydantic import BaseModel

from functions.sdk import stage

HARD = ("why", "explain", "compare", "difference")


class Route(BaseModel):
    """Seen by conditions as `stages.route.data`."""

    model: Literal["small", "large"]


@stage
def route(text: str) -> Route:
    """The question goes on as it is; `data.model` says where to."""
    words = text.lower().split()
    hard = len(words) > 40 or any(word.strip("?,.") in HARD for word in words)
    return Route(model="large" if hard else "small")
