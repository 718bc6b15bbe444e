"""What another stage answered, as values: its reply, its events, its problem, its time.

Whatever does not follow the contract becomes a problem that names the stage.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from multidict import CIMultiDictProxy
from pydantic import ValidationError

from functions.contract import (
    Delta,
    Failure,
    Final,
    Problem,
    StageEvent,
    StageReply,
    StageTiming,
    decode_event,
)
from functions.problems import MEDIA_TYPE, RETRYABLE_STATUSES, ProblemError, phrase, seconds_of
from functions.timing import parse_server_timing
from transport.sse import EventParser


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """A stage's reply, with the caller's view of its time as its only timing."""

    reply: StageReply
    timing: StageTiming


def with_timing(
    stage: str, reply: StageReply, headers: CIMultiDictProxy[str], *, seconds: float, attempts: int
) -> StageAnswer:
    """The reply with one timing: the stage's own as its caller saw it, and what proxies on the way add.

    Args:
        stage: who was called.
        reply: as it came.
        headers: of the response; `Server-Timing` has the phases.
        seconds: from the first attempt to the end of the reply.
        attempts: calls that were needed.
    """
    own = reply.timings[-1] if reply.timings else StageTiming(stage=stage, seconds=seconds)
    phases = {
        metric.name: metric.seconds
        for metric in parse_server_timing(", ".join(headers.getall("Server-Timing", ())))
        if metric.seconds is not None and metric.name != "total"
    }
    seen = {"stage": stage, "seconds": seconds, "phases": {**phases, **own.phases}, "attempts": attempts}
    timing = own.model_copy(update=seen)
    return StageAnswer(reply.model_copy(update={"timings": (timing,)}), timing)


def read_reply(stage: str, body: bytes) -> StageReply:
    """The reply in a body.

    Raises:
        ProblemError: 502 for anything else.
    """
    try:
        return StageReply.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise ProblemError.of(
            _outside_contract(stage, f"answered what is not a StageReply: {where}: {first['msg']}")
        ) from None


def read_problem(
    stage: str, *, status: int, content_type: str, headers: Mapping[str, str], body: bytes, now: float
) -> Problem:
    """The problem of a response that is not 200.

    A stage's own problem names its stage. One without a name, or another body, comes from something on the
    way: an activator, an ingress. Its 404 means that the stage has no route, which is not the client's fault.

    Args:
        stage: who was called; a problem of a stage further on keeps that one's name.
        status: of the response.
        content_type: of the response, without parameters.
        headers: of the response, for `Retry-After`.
        body: of the response.
        now: seconds since the epoch.
    """
    after = seconds_of(headers.get("Retry-After"), now=now)
    problem = _parsed_problem(content_type, body)
    if problem is not None and (problem.stage or status != HTTPStatus.NOT_FOUND):
        known = {"stage": problem.stage or stage, "status": status}
        if problem.retry_after is None:
            known["retry_after"] = after
        return problem.model_copy(update=known)
    if status == HTTPStatus.NOT_FOUND:
        return Problem(
            title="Stage unavailable",
            status=503,
            detail=f"stage {stage} has no route (404): it is not deployed, or it has never been ready",
            stage=stage,
        )
    # The body of something on the way is not passed on: it may hold anything.
    return Problem(
        title=phrase(status),
        status=status if status >= 400 else 502,
        detail=f"stage {stage} answered with status {status}",
        retryable=status in RETRYABLE_STATUSES,
        retry_after=after,
        stage=stage,
    )


def _parsed_problem(content_type: str, body: bytes) -> Problem | None:
    if content_type != MEDIA_TYPE:
        return None
    try:
        return Problem.model_validate_json(body)
    except ValidationError:
        return None


async def read_events(
    stage: str, response: aiohttp.ClientResponse, finish: Callable[[StageReply], StageReply]
) -> AsyncGenerator[StageEvent, None]:
    """The events of a response, ending in `Final` or `Failure` whatever happens to the connection.

    Args:
        stage: who answers.
        response: of status 200, body unread.
        finish: applied to the reply at the end.
    """
    try:
        if response.content_type == "application/json":
            # A stage that does not stream answers with a whole reply.
            reply = read_reply(stage, await response.read())
            yield Delta(reply.text)
            yield Final(finish(reply))
            return
        parser = EventParser()
        async for piece in response.content.iter_any():
            for raw in parser.feed(piece):
                event = decode_event(raw.name, raw.data)
                yield Final(finish(event.reply)) if isinstance(event, Final) else event
                if isinstance(event, Final | Failure):
                    return
        reason = "it ended without a reply"
    except (aiohttp.ClientError, OSError) as error:
        reason = type(error).__name__
    except ProblemError as error:
        yield Failure(error.problem)
        return
    except ValueError as error:
        yield Failure(_outside_contract(stage, f"sent an event outside the contract: {error}"))
        return
    yield Failure(cut_off(stage, reason))


def cut_off(stage: str, reason: str) -> Problem:
    """The problem of a stream that ended without a reply or an error."""
    return Problem(
        title="Stream cut off",
        status=502,
        detail=f"the stream of stage {stage} was cut off: {reason}",
        retryable=True,
        stage=stage,
    )


def _outside_contract(stage: str, what: str) -> Problem:
    return Problem(title="Bad response of a stage", status=502, detail=f"stage {stage} {what}", stage=stage)
