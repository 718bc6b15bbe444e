"""Measures one checkpoint after the other, each in a replica of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import aiohttp
import psutil

from pilotlight.comparison import device
from pilotlight.comparison.checkpoints import vocabulary
from pilotlight.comparison.engine import Engine
from pilotlight.comparison.errors import CompareError
from pilotlight.comparison.intervals import quality
from pilotlight.comparison.prompts import Prompt
from pilotlight.comparison.replica import Replica, replica
from pilotlight.comparison.scores import Place, PromptScore, score
from pilotlight.comparison.tasks import run_tasks
from pilotlight.comparison.values import Checkpoint, Measured, Start, Task

T = TypeVar("T")
R = TypeVar("R")

_MOST_VALUES = 48_000_000
"""Probabilities of the reference that are kept: 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured of every model.

    Attributes:
        prompts: given to each.
        answer_tokens: of the reference's answer.
        top: tokens named for each place; -1: the whole vocabulary.
        concurrency: requests at a time.
        rounds: of the throughput.
        starts: cold starts.
        patience_s: of one start.
        args: the engine's options.
        tasks: names of lm-eval's tasks, or their files.
    """

    prompts: Sequence[Prompt]
    answer_tokens: int
    top: int
    concurrency: int
    rounds: int
    starts: int
    patience_s: float
    args: Mapping[str, Any]
    tasks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Text:
    """A prompt's tokens, the reference's answer to it, and what the reference predicts for both."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    places: Sequence[Place]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class ProcessorTimes:
    """Seconds of all processors until an instant: busy, idle, and busy with this comparison."""

    busy: float
    idle: float
    own: float


def _processor_times(running: Replica) -> ProcessorTimes:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # `guest` is part of `user`, and `guest_nice` of `nice`.
    busy = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    mine = psutil.Process().cpu_times()
    return ProcessorTimes(busy, idle, running.processor_s() + mine.user + mine.system)


def disturbance(before: ProcessorTimes, after: ProcessorTimes) -> float:
    """Share of the processors' time between two instants that other processes took, 0 to 1."""
    busy, idle = after.busy - before.busy, after.idle - before.idle
    others = busy - (after.own - before.own)
    return min(1.0, max(0.0, others / (busy + idle))) if busy + idle > 0 else 0.0


Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is done."""


class Measurement:
    """Measures models against the first one.

    Args:
        plan: what is measured.
        session: sends the requests.
        progress: told what is being done.
    """

    def __init__(self, plan: Plan, session: aiohttp.ClientSession, progress: Progress) -> None:
        self._plan = plan
        self._session = session
        self._progress = progress
        self._texts: list[_Text] = []
        self.reference: list[PromptScore] = []
        """The reference's scores, one a prompt."""
        self.again: list[PromptScore] = []
        """The reference's second scores."""

    async def run(self, checkpoint: Checkpoint) -> Measured:
        """Measure one model; the first call's is the reference.

        Raises:
            CompareError: a replica does not start or answer.
        """
        starts: list[Start] = []
        with tempfile.TemporaryDirectory(prefix="pilotlight-compare-") as scratch:
            for number in range(1, self._plan.starts + 1):
                self._progress(f"{checkpoint.name}: cold start {number}", number - 1, self._plan.starts)
                async with replica(
                    checkpoint.path, self._plan.args, Path(scratch), patience_s=self._plan.patience_s
                ) as running:
                    starts.append(running.start)
                    if number == self._plan.starts:
                        return await self._measure(checkpoint, running, starts)
        raise AssertionError("unreachable")

    async def _measure(self, checkpoint: Checkpoint, running: Replica, starts: Sequence[Start]) -> Measured:
        engine = Engine(self._session, running.url)
        if not self._texts:
            await self._take_reference(checkpoint, engine)
            self.again = await self._scores(checkpoint, engine)
            scores = self.reference
        else:
            scores = await self._scores(checkpoint, engine)
        before = _processor_times(running)
        rates = await self._rates(checkpoint, engine)
        after = _processor_times(running)
        processes = running.processes()
        tasks: Sequence[Task] = ()
        if self._plan.tasks:
            self._progress(f"{checkpoint.name}: lm-eval", 0, 1)
            tasks = await run_tasks(
                self._plan.tasks, running.url, checkpoint.path, concurrency=self._plan.concurrency
            )
        return Measured(
            checkpoint=checkpoint,
            quality=quality(self.reference, scores),
            starts=starts,
            tokens_per_s=rates,
            disturbance=disturbance(before, after),
            memory_bytes=running.resident_bytes(),
            gpu_bytes=device.used_bytes(process.pid for process in processes),
            tasks=tasks,
        )

    async def _take_reference(self, checkpoint: Checkpoint, engine: Engine) -> None:
        """The reference's answers, what it predicts for them, and its scores."""
        plan = self._plan

        async def answer(prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
            try:
                tokens = await engine.tokenize(prompt)
                found = await engine.generate(tokens, plan.answer_tokens)
            except CompareError as error:
                raise CompareError(f"prompt in line {prompt.line}: {error}") from None
            return tuple(tokens), found.tokens

        texts = await self._each(f"{checkpoint.name}: answers", plan.prompts, answer)
        named = vocabulary(checkpoint) if plan.top < 0 else plan.top + 1
        total = sum(len(one) + len(two) for one, two in texts)
        if total * named > _MOST_VALUES:
            raise CompareError(
                f"{total:,} tokens of prompts and answers with {named:,} probabilities each are too many: "
                "fewer prompts, or a smaller --answer-tokens or --top"
            )

        async def predict(text: tuple[tuple[int, ...], tuple[int, ...]]) -> _Text:
            return _Text(*text, await engine.predictions(text[0] + text[1], plan.top))

        self._texts = await self._each(f"{checkpoint.name}: predictions", texts, predict)
        self.reference = [
            score(text.places, text.places, len(text.prompt), own=text.answer, answer=text.answer)
            for text in self._texts
        ]

    async def _scores(self, checkpoint: Checkpoint, engine: Engine) -> list[PromptScore]:
        async def one(text: _Text) -> PromptScore:
            own = await engine.generate(text.prompt, self._plan.answer_tokens)
            places = await engine.predictions(text.tokens, self._plan.top)
            return await asyncio.to_thread(
                score, text.places, places, len(text.prompt), own=own.tokens, answer=text.answer
            )

        return await self._each(f"{checkpoint.name}: answers and predictions", self._texts, one)

    async def _rates(self, checkpoint: Checkpoint, engine: Engine) -> list[float]:
        """Generated tokens per second of all requests together, for each round."""
        texts = self._texts[: 4 * self._plan.concurrency]

        async def one(text: _Text) -> int:
            found = await engine.generate(text.prompt, self._plan.answer_tokens, to_the_end=True)
            return len(found.tokens)

        rates = []
        for number in range(1, self._plan.rounds + 1):
            began = monotonic()
            counts = await self._each(f"{checkpoint.name}: tokens/s, round {number}", texts, one)
            rates.append(sum(counts) / (monotonic() - began))
        return rates

    async def _each(self, what: str, items: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
        """The results of some work on each item, so many at a time as requests are sent; in their order."""
        gate, done = asyncio.Semaphore(self._plan.concurrency), 0

        async def one(item: T) -> R:
            nonlocal done
            async with gate:
                found = await work(item)
            done += 1
            self._progress(what, done, len(items))
            return found

        self._progress(what, 0, len(items))
        tasks = [asyncio.create_task(one(item)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
