"""From a trace to what a replay sends, and from a URL to whose replicas answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pilotlight.replay.sender import Planned
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.trace import Trace


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of a request.

    Attributes:
        input: of a prompt that the trace says nothing of.
        output: to generate where the trace says nothing.
        most_input: longer prompts are cut to this; None: as the trace has them.
        most_output: the same for what is generated.
    """

    input: int = 32
    output: int = 16
    most_input: int | None = None
    most_output: int | None = None


def planned_requests(trace: Trace, *, speed: float, most: int | None, tokens: TokenCounts) -> list[Planned]:
    """The requests of a trace, `speed` times as fast, at most the first `most`.

    Raises:
        ExperimentError: there is none.
    """
    count = len(trace) if most is None else min(most, len(trace))
    if not count:
        raise ExperimentError("the trace has no requests: there is nothing to replay")
    prompts = _counts(trace.input_tokens[:count], tokens.input, tokens.most_input)
    outputs = _counts(trace.output_tokens[:count], tokens.output, tokens.most_output)
    due = trace.arrivals[:count] / speed
    return [
        Planned(index, float(due[index]), int(prompts[index]), int(outputs[index])) for index in range(count)
    ]


def _counts(values: Any, missing: int, most: int | None) -> Any:
    counts = np.maximum(1, np.where(np.isnan(values), missing, values).round()).astype(np.int64)
    return counts if most is None else np.minimum(counts, most)


def service_of(url: str, named: str | None = None) -> tuple[str, str]:
    """Namespace and name of the Service behind a function URL, or as `--service` names it.

    Raises:
        ExperimentError: the URL does not tell.
    """
    if named is not None:
        namespace, _, name = named.rpartition("/")
        return namespace or "default", name
    parts = urlsplit(url)
    host = (parts.hostname or "").split(".")
    path = [part for part in parts.path.split("/") if part]
    if len(host) > 2 and not all(label.isdigit() for label in host):
        return host[1], host[0]
    if len(path) > 1:
        return path[0], path[1]
    raise ExperimentError(f"--url {url}: does not tell which Service it is; give --service NAMESPACE/NAME")


def check_url(url: str) -> None:
    """Whether a URL can be called at all.

    Raises:
        ExperimentError: it cannot.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ExperimentError(f"--url {url}: must be a URL such as http://localhost:8080/default/echo/invoke")
