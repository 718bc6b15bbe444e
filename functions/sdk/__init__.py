"""Write a stage or a tool of an agent in Python: `from functions.sdk import stage, tool`.

    @tool
    def add(a: float, b: float) -> float:
        '''Add two numbers.'''
        return a + b

    @stage
    def shout(text: str) -> str:
        return text.upper()

`python -m functions tool MODULE:NAME` serves one; an agent file names it in a stage's `module`. Called
directly they are the functions they were, so that a test needs no server; `functions.sdk.testing` has the
HTTP application in the test's own process. `docs/agents.md` is the guide.
"""

from functions.contract import FinishReason, StageReply, StageRequest, Usage
from functions.dialogue import Message, Role
from functions.problems import ProblemError
from functions.sdk.dependencies import PerReplica, PerRequest
from functions.sdk.stages import stage
from functions.sdk.tools import tool
from functions.sdk.values import Call, Config, Reply, ToolError

__all__ = [
    "Call",
    "Config",
    "FinishReason",
    "Message",
    "PerReplica",
    "PerRequest",
    "ProblemError",
    "Reply",
    "Role",
    "StageReply",
    "StageRequest",
    "ToolError",
    "Usage",
    "stage",
    "tool",
]
