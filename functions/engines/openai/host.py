"""The engine `openai` for the generate stage."""

import asyncio
from collections.abc import Callable

import aiohttp

from functions.engine import Engine
from functions.engines.embeddings_api import embeddings_router
from functions.engines.hosted import AlwaysHotHost, parse_args
from functions.engines.openai import completions_proxy
from functions.engines.openai.client import OpenAIEngine
from functions.engines.openai.options import OpenAIArgs
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings, SettingsError, read_secret
from functions.stage import StageRoutes, StageRuntime, StartError
from functions.timing import Phase
from knative import env_vars

CONNECT_SECONDS = 10.0


def build_host(settings: FunctionSettings) -> AlwaysHotHost:
    """The host for these settings.

    Raises:
        SettingsError: a bad option, no model name, or a key file that cannot be read.
    """
    args = parse_args(OpenAIArgs, settings.engine_args)
    model = args.model or settings.model_name
    if model is None:
        raise SettingsError((f"{env_vars.MODEL_NAME} is not set; must be the model's name at base-url",))
    key = read_secret("OPENAI_API_KEY")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise SettingsError(("OPENAI_API_KEY = (hidden): must be printable ASCII",))

    async def open_engine(replica: ReplicaTracker) -> Engine:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=args.silence_seconds
            ),
        )
        engine = OpenAIEngine(session, args, model=model, key=key)
        try:
            with replica.measure(Phase.INIT):
                await engine.check()
        except (StartError, asyncio.CancelledError):
            await engine.close()
            raise
        return engine

    def routes(runtime: StageRuntime, engine: Callable[[], Engine]) -> StageRoutes:
        def openai_engine() -> OpenAIEngine:
            opened = engine()
            assert isinstance(opened, OpenAIEngine)
            return opened

        names = frozenset({settings.model_name or model})
        stage = settings.stage_name or "generate"
        return StageRoutes(
            embeddings_router(engine, model),
            completions_proxy.routes(openai_engine, names, runtime.metrics, stage),
        )

    return AlwaysHotHost(settings, open_engine, routes)
