"""Reading trace files. The format is recognised by its columns; gzip and Parquet by their first bytes.

| format | columns |
| --- | --- |
| Azure LLM inference 2023, 2024 | TIMESTAMP, ContextTokens, GeneratedTokens |
| Azure Functions 2021 | app, func, end_timestamp, duration (s) |
| Azure Functions 2019 | HashOwner, HashApp, HashFunction, Trigger, 1 ... 1440 (requests per minute) |
| BurstGPT | Timestamp, Model, Request tokens, Response tokens, ... |
| Mooncake | JSON lines with timestamp (ms), input_length, output_length |
| ServeGen windows | client, t, rate, cv, pattern, shape, scale |
| Alibaba GenTD26 | gmt_create, exec_time_seconds, checkpoint_model_version_id, ... (lora_request_trace.csv) |
| counts per minute | a time or minute column, and requests or count |
| plain | timestamp and, if known, function, service_s, input_tokens, output_tokens |

Counts and windows hold no arrival times: these are drawn with a seed, uniformly within a minute or by the
window's own distribution of gaps.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from warmpool.experiments.errors import TraceError
from warmpool.experiments.trace import MOST_REQUESTS, BadRow, Floats, Trace, trace_of

_MINUTE_S: Final = 60.0
_GZIP: Final = b"\x1f\x8b"
_PARQUET: Final = b"PAR1"
_MOST_ROWS_NAMED: Final = 1000
_MOST_DAYS: Final = 400
"""A simulation keeps some numbers for each second of a trace."""
_LATEST_EPOCH_S: Final = 1e11
"""The year 5138: larger times are milliseconds, or none."""


@dataclass(slots=True)
class _Columns:
    """What a reader gathers row by row."""

    times: list[float] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    service_s: list[float] = field(default_factory=list)
    input_tokens: list[float] = field(default_factory=list)
    output_tokens: list[float] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    epoch: bool = False
    """Whether times are seconds since 1970."""

    def room_for(self, requests: float) -> int:
        """So many requests as a whole number, before they are drawn.

        Raises:
            ValueError: with them the trace would have more than `MOST_REQUESTS`.
        """
        if len(self.times) + requests > MOST_REQUESTS:
            raise ValueError(f"{requests:,.0f} requests are too many: a trace has at most {MOST_REQUESTS:,}")
        return int(requests)

    def add(
        self,
        time: float,
        function: str = "function",
        service_s: float = math.nan,
        input_tokens: float = math.nan,
        output_tokens: float = math.nan,
    ) -> None:
        self.times.append(time)
        self.functions.append(self.names.setdefault(function, len(self.names)))
        self.service_s.append(service_s)
        self.input_tokens.append(input_tokens)
        self.output_tokens.append(output_tokens)


Row = Mapping[str, str]
Reader = Callable[[Row, _Columns, np.random.Generator], None]


def read_trace(path: Path, *, seed: int = 0, skip_bad_rows: bool = False) -> Trace:
    """Read a trace file.

    Args:
        path: the file; a name that ends in `.jsonl` is read as JSON lines, everything else as CSV.
        seed: for arrival times that the file does not hold.
        skip_bad_rows: go on after a row that cannot be read, and list it in the trace; else stop there.

    Raises:
        TraceError: the file cannot be read, its format is unknown, it has no requests, or a row is bad.
    """
    columns = _Columns()
    bad: list[BadRow] = []
    rng = np.random.default_rng(seed)
    lines, reader = _rows_of(path)
    for line, row in lines:
        try:
            if isinstance(row, Exception):
                raise row
            reader(row, columns, rng)
        except (ValueError, KeyError, TypeError, OverflowError) as problem:
            reason = f"column {problem} is missing" if isinstance(problem, KeyError) else str(problem)
            if not skip_bad_rows:
                raise TraceError(f"{path}:{line}: {reason}; fix the row, or skip bad rows") from problem
            if len(bad) < _MOST_ROWS_NAMED:
                bad.append(BadRow(line, reason))
    if not columns.times:
        raise TraceError(f"{path}: has no requests")
    times = np.array(columns.times)
    days = float(times.max() - times.min()) / 86_400
    if days > _MOST_DAYS:
        raise TraceError(
            f"{path}: lasts {days:,.0f} days, must be at most {_MOST_DAYS}; are its times in seconds?"
        )
    start = datetime.fromtimestamp(float(times.min()), UTC) if columns.epoch else None
    return trace_of(
        times,
        functions=np.array(columns.functions, dtype=np.int64),
        names=tuple(columns.names),
        service_s=np.array(columns.service_s),
        input_tokens=np.array(columns.input_tokens),
        output_tokens=np.array(columns.output_tokens),
        start=start,
        bad_rows=tuple(bad),
    )


def write_trace(trace: Trace, path: Path) -> int:
    """Write a trace as plain CSV; returns how many requests it has.

    Times are seconds since 1970 where the trace says when it began, else since its first request.

    Raises:
        OSError: the file cannot be written.
    """
    origin = trace.start.timestamp() if trace.start else 0.0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "function", "service_s", "input_tokens", "output_tokens"])
        for index, arrival in enumerate(trace.arrivals):
            known = (trace.service_s[index], trace.input_tokens[index], trace.output_tokens[index])
            writer.writerow(
                [
                    f"{origin + float(arrival):.3f}",
                    trace.names[trace.functions[index]],
                    *("" if math.isnan(value) else f"{value:.6g}" for value in known),
                ]
            )
    return len(trace)


def _text_of(path: Path, content: bytes) -> str:
    try:
        if content[:2] == _GZIP:
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as problem:
        reason = (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
        raise TraceError(f"{path}: cannot be read: {reason}") from problem
    except UnicodeDecodeError as problem:
        raise TraceError(f"{path}: is not UTF-8 (byte {problem.start})") from problem


def _rows_of(path: Path) -> tuple[Iterator[tuple[int, Row | Exception]], Reader]:
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read: {problem.strerror}") from problem
    if content[:4] == _PARQUET:
        header, numbered = _parquet_rows(path)
        return numbered, _known_reader(path, header)
    text = _text_of(path, content)
    if not text.strip():
        raise TraceError(f"{path}: is empty")
    first = text.split("\n", 1)[0]
    if path.suffix == ".jsonl" or first.lstrip().startswith("{"):
        return _json_rows(text), _mooncake
    rows = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(rows, [])]
    return _csv_rows(rows, header), _known_reader(path, header)


def _known_reader(path: Path, header: Sequence[str]) -> Reader:
    reader = _reader_of(header)
    if reader is None:
        raise TraceError(
            f"{path}:1: columns {', '.join(header[:8])} are those of no known format; "
            "a plain trace has timestamp[,function,service_s,input_tokens,output_tokens]"
        )
    return reader


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, Row | Exception]]]:
    """Columns, and rows numbered from 1, with their values as text."""
    try:
        # Only those who have such files install it.
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise TraceError(f"{path}: Parquet needs: pip install 'pilotlight[parquet]'") from missing
    try:
        file = pq.ParquetFile(path)
        header = list(file.schema_arrow.names)
        batches = [batch.to_pylist() for batch in file.iter_batches()]
    except (OSError, ValueError) as problem:  # pyarrow's own errors are among these
        raise TraceError(f"{path}: is not a Parquet file that can be read: {problem}") from problem
    rows = (
        {name: "" if value is None else str(value) for name, value in row.items()}
        for batch in batches
        for row in batch
    )
    return header, iter(enumerate(rows, 1))


def _csv_rows(rows: Iterator[list[str]], header: Sequence[str]) -> Iterator[tuple[int, Row | Exception]]:
    for line, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(header):
            yield line, ValueError(f"has {len(row)} columns, must have {len(header)}")
            continue
        yield line, dict(zip(header, row, strict=True))


def _json_rows(text: str) -> Iterator[tuple[int, Row | Exception]]:
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as problem:
            yield line, ValueError(f"is not JSON: {problem}")
            continue
        yield line, row if isinstance(row, dict) else ValueError("is not a JSON object")


def _reader_of(header: Sequence[str]) -> Reader | None:
    columns = set(header)
    for needed, reader in _FORMATS:
        if needed <= columns:
            return reader()
    for name in ("requests", "count", "invocations"):
        if name in columns and len(header) > 1:
            return _Counts(header[0], name)
    return None


def _number(row: Row, column: str, *, least: float = 0.0) -> float:
    text = row[column]
    try:
        value = float(text)
    except (TypeError, ValueError):
        raise ValueError(f"{column} = {text!r}, must be a number") from None
    if not math.isfinite(value) or value < least:
        raise ValueError(f"{column} = {text!r}, must be a finite number of at least {least:g}")
    return value


def _optional(row: Row, column: str) -> float:
    return math.nan if not str(row.get(column, "")).strip() else _number(row, column)


def _instant(text: str, column: str) -> tuple[float, bool]:
    """Seconds, and whether they count from 1970."""
    try:
        value = float(text)
    except ValueError:
        try:
            # Some traces write seven digits of a second, of which Python reads six.
            moment = datetime.fromisoformat(text.strip()[:26] if "." in text else text.strip())
        except ValueError:
            raise ValueError(f"{column} = {text!r}, must be seconds or a date with time") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), True
    if not math.isfinite(value):
        raise ValueError(f"{column} = {text!r}, must be a finite number of seconds")
    if abs(value) > _LATEST_EPOCH_S:
        raise ValueError(f"{column} = {text!r}, must be seconds; it looks like milliseconds")
    return value, value > 1e9


def _azure_llm(row: Row, columns: _Columns, _: np.random.Generator) -> None:
    time, columns.epoch = _instant(row["TIMESTAMP"], "TIMESTAMP")
    columns.add(
        time,
        input_tokens=_number(row, "ContextTokens"),
        output_tokens=_number(row, "GeneratedTokens"),
    )


def _azure_functions_2021(row: Row, columns: _Columns, _: np.random.Generator) -> None:
    duration = _number(row, "duration")
    columns.add(_number(row, "end_timestamp") - duration, f"{row['app']}/{row['func']}", duration)


def _azure_functions_2019(row: Row, columns: _Columns, rng: np.random.Generator) -> None:
    name = f"{row.get('HashApp', '')}/{row['HashFunction']}"
    for minute in range(1440):
        count = columns.room_for(_number(row, str(minute + 1)))
        for offset in np.sort(rng.random(count)) * _MINUTE_S:
            columns.add(minute * _MINUTE_S + float(offset), name)


def _burst_gpt(row: Row, columns: _Columns, _: np.random.Generator) -> None:
    columns.add(
        _number(row, "Timestamp"),
        row.get("Model") or "function",
        input_tokens=_number(row, "Request tokens"),
        output_tokens=_number(row, "Response tokens"),
    )


def _gentd26(row: Row, columns: _Columns, _: np.random.Generator) -> None:
    time, columns.epoch = _instant(row["gmt_create"], "gmt_create")
    model = row.get("checkpoint_model_version_id") or "function"
    columns.add(time, model, _optional(row, "exec_time_seconds"))


def _mooncake(row: Row, columns: _Columns, _: np.random.Generator) -> None:
    columns.add(
        _number(row, "timestamp") / 1000,
        input_tokens=_optional(row, "input_length"),
        output_tokens=_optional(row, "output_length"),
    )


def _plain(row: Row, columns: _Columns, _: np.random.Generator) -> None:
    time, columns.epoch = _instant(row["timestamp"], "timestamp")
    columns.add(
        time,
        row.get("function") or "function",
        _optional(row, "service_s"),
        _optional(row, "input_tokens"),
        _optional(row, "output_tokens"),
    )


@dataclass(frozen=True, slots=True)
class _Counts:
    """Requests per minute; the first column is a time or the number of the minute."""

    time: str
    count: str

    def __call__(self, row: Row, columns: _Columns, rng: np.random.Generator) -> None:
        value, epoch = _instant(row[self.time], self.time)
        count = columns.room_for(_number(row, self.count))
        minute_s = value if epoch else value * _MINUTE_S
        columns.epoch = epoch
        for offset in np.sort(rng.random(count)) * _MINUTE_S:
            columns.add(minute_s + float(offset))


class _ServeGen:
    """Windows of a renewal process for each client; a window ends where the client's next one begins."""

    _WINDOW_S: Final = 600.0

    def __call__(self, row: Row, columns: _Columns, rng: np.random.Generator) -> None:
        begin, rate = _number(row, "t"), _number(row, "rate")
        shape, scale = _number(row, "shape"), _number(row, "scale")
        if not rate:
            return
        count = int(rng.poisson(columns.room_for(rate * self._WINDOW_S)))
        if not count:
            return
        if shape <= 0 or scale <= 0:
            raise ValueError(f"shape = {shape:g} and scale = {scale:g}, must both be above 0")
        gaps = rng.gamma(shape, scale, count) if row["pattern"] == "Gamma" else rng.weibull(shape, count)
        # The mean of so few gaps is far from the distribution's: the window's own rate is kept.
        edges: Floats = np.cumsum(gaps)
        for offset in edges / (edges[-1] * (1 + 1 / count)) * self._WINDOW_S:
            columns.add(begin + float(offset), row.get("client") or "function")


_FORMATS: Final[Sequence[tuple[frozenset[str], Callable[[], Reader]]]] = (
    (frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}), lambda: _azure_llm),
    (frozenset({"app", "func", "end_timestamp", "duration"}), lambda: _azure_functions_2021),
    (frozenset({"HashFunction", "1", "1440"}), lambda: _azure_functions_2019),
    (frozenset({"Timestamp", "Request tokens", "Response tokens"}), lambda: _burst_gpt),
    (frozenset({"t", "rate", "shape", "scale"}), _ServeGen),
    (frozenset({"gmt_create", "exec_time_seconds"}), lambda: _gentd26),
    (frozenset({"timestamp"}), lambda: _plain),
)
