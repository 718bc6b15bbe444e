"""The Prometheus metrics of a stage: one registry for each application, so that two in one process never mix.

Names carry their unit; the cold-start phases have the same labels as `Server-Timing`.
"""

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from functions.contract import Usage
from functions.lifecycle import Lifecycle, State
from functions.timing import ColdStartTiming, TokenTimes

CONTENT_TYPE = CONTENT_TYPE_LATEST

_COLD_START_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377)
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_LENGTH_BUCKETS = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)

ExtraMetrics = Callable[[], Awaitable[bytes]]
"""Gives more text in the exposition format, such as vLLM's metrics; raises OSError or TimeoutError."""


class Metrics:
    """The metrics of one stage. Methods take measured values.

    Args:
        stage: the stage's name, a label of every metric.
        kind: its kind.
    """

    def __init__(self, *, stage: str, kind: str) -> None:
        self.registry = CollectorRegistry()
        names = ("stage", "kind")
        where = {"stage": stage, "kind": kind}

        cold_start = Histogram(
            "pilotlight_cold_start_seconds",
            "Seconds of each phase of a cold start; phase total is the whole way to hot.",
            (*names, "warmth", "phase"),
            buckets=_COLD_START_BUCKETS,
            registry=self.registry,
        )
        requests = Counter(
            "pilotlight_requests", "Requests by status.", (*names, "code"), registry=self.registry
        )
        tokens = Counter(
            "pilotlight_tokens", "Tokens by direction.", (*names, "direction"), registry=self.registry
        )

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, names, buckets=buckets, registry=self.registry).labels(**where)

        self._cold_start = cold_start
        self._requests = requests
        self._tokens = tokens
        self._where = where
        self._seconds = histogram(
            "pilotlight_request_seconds", "Seconds from arrival to the end of the answer.", REQUEST_BUCKETS
        )
        self._ttft = histogram(
            "pilotlight_time_to_first_token_seconds",
            "Seconds from arrival to the first token.",
            REQUEST_BUCKETS,
        )
        self._itl = histogram(
            "pilotlight_inter_token_seconds", "Seconds between consecutive tokens.", _TOKEN_BUCKETS
        )
        self._tpot = histogram(
            "pilotlight_time_per_output_token_seconds",
            "Mean seconds per output token after the first, by request.",
            _TOKEN_BUCKETS,
        )
        self._length = histogram("pilotlight_answer_tokens", "Tokens of each answer.", _LENGTH_BUCKETS)
        self._refusals = Counter(
            "pilotlight_refusals", "Answers that decline to answer.", names, registry=self.registry
        ).labels(**where)
        self._batch_size = histogram(
            "pilotlight_batch_size",
            "Requests that the engine has at once, itself included, seen by each request as it begins.",
            _BATCH_BUCKETS,
        )
        self.queue_depth = Gauge(
            "pilotlight_queue_depth",
            "Requests in the replica, running and waiting.",
            names,
            registry=self.registry,
        ).labels(**where)
        self._state = Enum(
            "pilotlight_replica_state",
            "State of the replica.",
            names,
            states=[state.value for state in State],
            registry=self.registry,
        ).labels(**where)
        self.extra: list[ExtraMetrics] = []
        """More metrics for the same page, added by the stage."""

    def changed(self, lifecycle: Lifecycle) -> None:
        """The replica's state has changed."""
        self._state.state(lifecycle.state.value)

    def cold_start(self, cold_start: ColdStartTiming) -> None:
        """A cold start is complete."""
        for phase, seconds in cold_start.phases.items():
            self._cold_start.labels(**self._where, warmth=cold_start.warmth, phase=str(phase)).observe(
                seconds
            )
        if cold_start.total is not None:
            self._cold_start.labels(**self._where, warmth=cold_start.warmth, phase="total").observe(
                cold_start.total
            )

    def request(self, code: int, seconds: float) -> None:
        """A request was answered with this status."""
        self._requests.labels(**self._where, code=str(code)).inc()
        self._seconds.observe(seconds)

    def batch(self, requests: int) -> None:
        """A request has come to the engine, which has so many now."""
        self._batch_size.observe(requests)

    def generation(self, times: TokenTimes, usage: Usage | None, *, refused: bool = False) -> None:
        """A generation ended (or was cut off); `refused`: the model declined to answer."""
        length = usage.completion_tokens if usage is not None else None
        self.answer(length if length is not None or not times.tokens else len(times.tokens), refused=refused)
        if times.ttft is not None:
            self._ttft.observe(times.ttft)
        for gap in times.itl:
            self._itl.observe(gap)
        if times.tpot is not None:
            self._tpot.observe(times.tpot)
        if usage is not None:
            for direction, count in (
                ("prompt", usage.prompt_tokens),
                ("completion", usage.completion_tokens),
            ):
                if count is not None:
                    self._tokens.labels(**self._where, direction=direction).inc(count)

    def answer(self, tokens: int | None, *, refused: bool) -> None:
        """An answer ended, with so many tokens (None: unknown); `refused`: it declines."""
        if tokens is not None:
            self._length.observe(tokens)
        if refused:
            self._refusals.inc()

    async def page(self) -> bytes:
        """The whole page; a source that does not answer is left out and said so in a comment."""
        parts = [generate_latest(self.registry)]
        for source in self.extra:
            try:
                parts.append(await source())
            except (OSError, TimeoutError) as error:
                parts.append(f"# a source of metrics did not answer: {type(error).__name__}\n".encode())
        return b"".join(parts)
