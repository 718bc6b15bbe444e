"""The environment of a replica: the only module of this package that reads it.

`FunctionSettings.parse` is a pure function of a mapping. It reports every bad variable at once, each with its
name, its value and what would be right. `docs/architecture.md` lists the variables.
"""

import json
import math
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from functions.gpu_devices import held_devices
from functions.lifecycle import Warmth
from knative import env_vars
from weights.cache.location import CACHE_QUOTA_VARIABLE, default_cache_dir, parse_cache_quota

KINDS = ("ingest", "generate", "postprocess", "orchestrate")
MODULE_KINDS = ("stage", "tool")
"""Kinds whose code is a Python module of the user's."""
MODULE_REFERENCE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
"""`MODULE:NAME`, such as `kb:search`."""
ENGINES = ("vllm", "openai", "onnx")

_VALUE_CHARS = 120
_KUBERNETES_TERMINATION_LOG = Path("/dev/termination-log")
_IN_KUBERNETES = "KUBERNETES_SERVICE_HOST"
"""Set in every container of Kubernetes, and by nothing else."""
_SECRET_HINTS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


COLOCATED_KINDS = ("ingest", "postprocess")
"""Stages that can run in orchestrate's process."""
_COLOCATED = {"name", "kind", "colocated"}


class SettingsError(ValueError):
    """Bad variables, one line each in `problems`."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Colocated:
    """What a stage is told that runs in orchestrate's process."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """As `PILOTLIGHT_STAGE_CONFIG` of a stage of its own."""
    model_uri: str | None = None


@dataclass(frozen=True, slots=True)
class StageAddress:
    """Where orchestrate finds one stage of the chain."""

    name: str
    kind: str
    url: str
    """Empty for one in orchestrate's own process."""
    colocated: Colocated | None = None


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """Everything that a replica is told by its environment."""

    port: int = 8080
    """Port to listen on; 0 for any free one."""
    host: str = "0.0.0.0"  # noqa: S104 - a container's port is reached from outside it
    service: str | None = None
    """Knative's Service (`K_SERVICE`)."""
    revision: str | None = None
    configuration: str | None = None
    agent: str | None = None
    model_uri: str | None = None
    """`s3://bucket/prefix`, `file:///dir` or a path."""
    model_name: str | None = None
    """The name it is served under."""
    engine: Literal["vllm", "openai", "onnx"] = "vllm"
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """The engine's own options; for vLLM as on its command line, without the dashes in front."""
    stages: tuple[StageAddress, ...] = ()
    """The chain, in order, for orchestrate."""
    graph: Mapping[str, Any] | None = None
    """How these are bound together, as `functions.graph.settings`, which checks it; None: in order."""
    stage_config: Mapping[str, Any] = field(default_factory=dict)
    """The stage kind's own settings, checked by the stage."""
    module_path: Path | None = None
    """Folder in which a user's module is found before the installed ones."""
    gateway: str | None = None
    """URL that stage calls connect to, with the stage's host in `Host`; None to connect to the stages."""
    cache_dir: Path = field(default_factory=lambda: default_cache_dir({}))
    runs_dir: Path | None = None
    """Folder for the SQLite file of durable runs."""
    cache_quota: int | None = None
    """Bytes that the cache may take; None: no limit."""
    snapshot: bool = False
    """Whether to write a snapshot of the template process once the replica is hot."""
    warmth: Warmth = Warmth.HOT
    """The resting warmth: hot, asleep or standby."""
    drain_seconds: float = 30.0
    """Seconds that requests in flight may take after SIGTERM."""
    failure_seconds: float = 3.0
    """Seconds for which a failed replica shows its cause before it exits."""
    deadline_seconds: float = 300.0
    """Deadline in seconds of a request that brings none."""
    queue_limit: int = 1024
    """Requests in the replica, running and waiting, above which it answers 429."""
    head_bytes: int = 64 * 1024
    """Bytes of a request's header fields at most."""
    head_seconds: float = 10.0
    """Seconds that a request's head may take to arrive."""
    body_seconds: float = 60.0
    """Seconds that a request's body may take to arrive; its deadline may be earlier."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other sites' pages that may call the stage, such as `https://app.example`; `*` for all."""
    auth: Literal["keys", "jwt", "none", "stages"] | None = None
    """Whose requests are answered. None: anyone's, which is refused where Kubernetes runs the replica."""
    keys_dir: Path | None = None
    """Folder of the Secret with the keys' records."""
    jwt: Mapping[str, Any] | None = None
    """As `functions.auth.jwt_tokens.JwtSettings`, which checks it."""
    tls_dir: Path | None = None
    """Folder with `ca.crt`, `tls.crt` and `tls.key` of the server; None: it speaks plain HTTP."""
    stage_token_dir: Path | None = None
    """Folder of the Secret with the token of the agent's own stages."""
    progress_seconds: float = 2.0
    """Seconds between the comments in a stream that waits for a start; 0: none."""
    gpu_devices: tuple[str, ...] | None = ()
    """Indices or UUIDs of the GPUs that the replica holds; None: all that NVML shows."""
    telemetry: Mapping[str, str] = field(default_factory=dict)
    """OpenTelemetry's own variables (`OTEL_*`), see `transport.spans`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def stage_name(self) -> str | None:
        """The stage's name: that of its Service. None outside of Knative."""
        return self.service

    @classmethod
    def parse(cls, environ: Mapping[str, str]) -> "FunctionSettings":
        """The settings of an environment; an empty variable counts as unset.

        Raises:
            SettingsError: with a line for each bad variable.
        """
        reader = _Reader(environ)
        defaults = cls()
        settings = cls(
            port=reader.read("PORT", _integer(0, 65535), defaults.port),
            host=reader.read(env_vars.HOST, str, defaults.host),
            service=reader.read("K_SERVICE", str, None),
            revision=reader.read("K_REVISION", str, None),
            configuration=reader.read("K_CONFIGURATION", str, None),
            agent=reader.read(env_vars.AGENT, str, None),
            model_uri=reader.read(env_vars.MODEL_URI, _model_uri, None),
            model_name=reader.read(env_vars.MODEL_NAME, str, None),
            engine=reader.read(env_vars.ENGINE, _one_of(*ENGINES), defaults.engine),
            engine_args=reader.read(env_vars.ENGINE_ARGS, _engine_args, {}),
            stages=reader.read(env_vars.STAGES, _stages, ()),
            graph=reader.read(env_vars.GRAPH, _json_object, None),
            stage_config=reader.read(env_vars.STAGE_CONFIG, _json_object, {}),
            module_path=reader.read(env_vars.MODULE_PATH, Path, None),
            gateway=reader.read(env_vars.GATEWAY, _http_url, None),
            cache_dir=default_cache_dir(environ),
            runs_dir=reader.read(env_vars.RUNS_DIR, Path, None),
            cache_quota=reader.read(CACHE_QUOTA_VARIABLE, parse_cache_quota, None),
            snapshot=reader.read(env_vars.SNAPSHOT, _boolean, defaults.snapshot),
            warmth=reader.read(env_vars.WARMTH, _warmth, Warmth.HOT),
            drain_seconds=reader.read(env_vars.DRAIN_SECONDS, _seconds, defaults.drain_seconds),
            failure_seconds=reader.read(env_vars.FAILURE_SECONDS, _seconds, defaults.failure_seconds),
            deadline_seconds=reader.read(env_vars.DEADLINE_SECONDS, _seconds, defaults.deadline_seconds),
            queue_limit=reader.read(env_vars.QUEUE_LIMIT, _integer(1, 1_000_000), defaults.queue_limit),
            head_bytes=reader.read(
                env_vars.HEAD_BYTES, _integer(1024, 16 * 1024 * 1024), defaults.head_bytes
            ),
            head_seconds=reader.read(env_vars.HEAD_SECONDS, _positive_seconds, defaults.head_seconds),
            body_seconds=reader.read(env_vars.BODY_SECONDS, _positive_seconds, defaults.body_seconds),
            allowed_origins=reader.read(env_vars.ALLOWED_ORIGINS, _origins, ()),
            auth=reader.read(env_vars.AUTH, _one_of("keys", "jwt", "none", "stages"), None),
            keys_dir=reader.read(env_vars.KEYS_DIR, Path, None),
            jwt=reader.read(env_vars.JWT, _json_object, None),
            tls_dir=reader.read(env_vars.TLS_DIR, Path, None),
            stage_token_dir=reader.read(env_vars.STAGE_TOKEN_DIR, Path, None),
            progress_seconds=reader.read(env_vars.PROGRESS_SECONDS, _seconds, defaults.progress_seconds),
            gpu_devices=held_devices(environ),
            telemetry={key: value for key, value in environ.items() if key.startswith("OTEL_")},
            log_level=reader.read(
                env_vars.LOG_LEVEL, _one_of("debug", "info", "warning", "error"), defaults.log_level
            ),
        )
        problems = (*reader.problems, *_auth_problems(settings, environ))
        if problems:
            raise SettingsError(problems)
        return settings


def read_settings() -> FunctionSettings:
    """The settings of this process's environment.

    Raises:
        SettingsError: as `FunctionSettings.parse`.
    """
    return FunctionSettings.parse(os.environ)


def read_secret(variable: str) -> str | None:
    """A secret from the file that `VARIABLE_FILE` names, else from `VARIABLE`; None without either.

    Raises:
        SettingsError: the file cannot be read or is empty. The message holds the path, never the secret.
    """
    path = os.environ.get(f"{variable}_FILE")
    if not path:
        return os.environ.get(variable) or None
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError((f"{variable}_FILE = {path}: {reason}; must be a readable file",)) from None
    if not secret:
        raise SettingsError((f"{variable}_FILE = {path}: the file is empty; must hold the secret",))
    return secret


def process_environment() -> Mapping[str, str]:
    """This process's environment as it is: for processes that it starts, and for variables of vLLM's own."""
    return os.environ


def termination_log() -> Path | None:
    """The file for this container's termination message; None where the platform has none.

    Kubernetes mounts `/dev/termination-log` into every container and shows what it holds when the container
    has exited (`terminationMessagePath`).
    """
    if path := os.environ.get(env_vars.TERMINATION_LOG):
        return Path(path)
    return _KUBERNETES_TERMINATION_LOG if _KUBERNETES_TERMINATION_LOG.exists() else None


def _auth_problems(settings: FunctionSettings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What is missing for the stage to know whose requests to answer."""
    if settings.auth is None and environ.get(_IN_KUBERNETES):
        return (f"{env_vars.AUTH} is not set, must be keys, jwt or none on a cluster (spec.auth)",)
    needed = {
        "keys": (env_vars.KEYS_DIR, settings.keys_dir),
        "jwt": (env_vars.JWT, settings.jwt),
        "stages": (env_vars.STAGE_TOKEN_DIR, settings.stage_token_dir),
    }
    name, value = needed.get(settings.auth or "", ("", ""))
    return (f"{name} is not set; must be with {env_vars.AUTH} = {settings.auth}",) if value is None else ()


class _Reader:
    """Reads variables one by one and collects what is wrong with each."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def read(self, name: str, parse: Callable[[str], Any], default: Any) -> Any:
        raw = self._environ.get(name, "").strip()
        if not raw:
            return default
        try:
            return parse(raw)
        except ValueError as error:
            shown = "(hidden)" if any(hint in name for hint in _SECRET_HINTS) else repr(raw[:_VALUE_CHARS])
            self.problems.append(f"{name} = {shown}: {error}")
            return default


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not (raw.isascii() and raw.isdecimal() and len(raw) < 20) or not low <= int(raw) <= high:
            raise ValueError(f"must be an integer from {low} to {high}")
        return int(raw)

    return parse


def _seconds(raw: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError("must be a number of seconds, at least 0")
    return value


def _positive_seconds(raw: str) -> float:
    value = _seconds(raw)
    if not value:
        raise ValueError("must be more than 0 seconds")
    return value


def _origins(raw: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in raw.split(",") if part.strip())
    for origin in origins:
        parts = urllib.parse.urlsplit(origin)
        if origin != "*" and (
            parts.scheme not in {"http", "https"} or origin != f"{parts.scheme}://{parts.netloc}"
        ):
            raise ValueError(f"{origin!r} must be an origin such as https://app.example, or *")
    return origins


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return raw

    return parse


def _boolean(raw: str) -> bool:
    return _one_of("true", "false")(raw) == "true"


def _warmth(raw: str) -> Warmth:
    return Warmth(_one_of("hot", "asleep", "standby")(raw))


def _json(raw: str, shape: str) -> Any:
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1}); must be {shape}") from None


def _json_object(raw: str) -> dict[str, Any]:
    value = _json(raw, "a JSON object")
    if not isinstance(value, dict):
        raise ValueError(f"is a JSON {_json_type(value)}; must be a JSON object")  # noqa: TRY004 - bad text
    return value


def _engine_args(raw: str) -> dict[str, Any]:
    value = _json_object(raw)
    for key in value:
        if key.startswith("-"):
            raise ValueError(f"key {key!r} has dashes in front; must be {key.lstrip('-')!r}")
    return value


def _stages(raw: str) -> tuple[StageAddress, ...]:
    shape = 'a JSON list of {"name", "kind", "url"} or {"name", "kind", "colocated"}'
    value = _json(raw, shape)
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be {shape}, not empty")
    stages: list[StageAddress] = []
    for position, item in enumerate(value):
        where = f"[{position}]"
        if not isinstance(item, dict) or set(item) not in ({"name", "kind", "url"}, _COLOCATED):
            raise ValueError(
                f"{where} must be an object of name, kind and url, or of name, kind and colocated"
            )
        for key in ("name", "kind"):
            if not isinstance(item[key], str) or not item[key]:
                raise ValueError(f"{where}.{key} = {item[key]!r}, must be a text")
        if item["name"] in {stage.name for stage in stages}:
            raise ValueError(f"{where}.name = {item['name']!r} is there twice; names must differ")
        stages.append(_colocated(where, item) if "colocated" in item else _address(where, item))
    return tuple(stages)


def _address(where: str, item: Mapping[str, Any]) -> StageAddress:
    url = item["url"]
    if not isinstance(url, str) or not url:
        raise ValueError(f"{where}.url = {url!r}, must be a text")
    try:
        return StageAddress(item["name"], item["kind"], _http_url(url))
    except ValueError as error:
        raise ValueError(f"{where}.url = {url!r}: {error}") from None


def _colocated(where: str, item: Mapping[str, Any]) -> StageAddress:
    if item["kind"] not in COLOCATED_KINDS:
        kinds = " or ".join(COLOCATED_KINDS)
        raise ValueError(f"{where}.kind = {item['kind']!r}, must be {kinds} for a stage in this process")
    given = item["colocated"]
    if not isinstance(given, dict) or not set(given) <= {"config", "modelUri"}:
        raise ValueError(f"{where}.colocated must be an object of config and modelUri")
    config, uri = given.get("config", {}), given.get("modelUri")
    if not isinstance(config, dict):
        raise ValueError(f"{where}.colocated.config = {config!r}, must be a JSON object")  # noqa: TRY004 - bad text
    if uri is not None:
        if not isinstance(uri, str):
            raise ValueError(f"{where}.colocated.modelUri = {uri!r}, must be a text")
        try:
            uri = _model_uri(uri)
        except ValueError as error:
            raise ValueError(f"{where}.colocated.modelUri = {uri!r}: {error}") from None
    return StageAddress(item["name"], item["kind"], "", Colocated(config, uri))


def _http_url(raw: str) -> str:
    parts = urllib.parse.urlsplit(raw)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL such as http://host:port")
    parts.port  # noqa: B018 - raises ValueError for a port that is none
    return raw.rstrip("/")


def _model_uri(raw: str) -> str:
    scheme, separator, rest = raw.partition("://")
    if separator and scheme not in {"s3", "file"}:
        raise ValueError("must be s3://bucket/prefix, file:///dir or a path")
    if scheme == "s3" and separator and not rest.strip("/"):
        raise ValueError("names no bucket; must be s3://bucket/prefix")
    return raw


def _json_type(value: Any) -> str:
    return {list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
