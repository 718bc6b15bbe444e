"""A real Prometheus server for tests, and a page of metrics that it scrapes."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

BINARY = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(BINARY is None, reason="prometheus is not installed; CI installs it")


class Page:
    """A page of metrics whose text a test decides."""

    def __init__(self) -> None:
        self.text = ""
        self.url = ""

    async def show(self, _: web.Request) -> web.Response:
        return web.Response(text=self.text)


@asynccontextmanager
async def metrics_page() -> AsyncIterator[Page]:
    page = Page()
    app = web.Application()
    app.router.add_get("/metrics", page.show)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    page.url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    yield page
    await runner.cleanup()


@asynccontextmanager
async def prometheus(
    folder: Path,
    port: int,
    target: str,
    data: Path | None = None,
    more: Sequence[Mapping[str, Any]] = (),
) -> AsyncIterator[str]:
    """A Prometheus that scrapes `target` ten times a second; its URL.

    It has the blocks of `data`, and scrapes what the configurations `more` say.
    """
    host, _, path = target.removeprefix("http://").partition("/")
    folder.mkdir()
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"},
                "scrape_configs": [
                    {
                        "job_name": "page",
                        "metrics_path": f"/{path}",
                        "static_configs": [{"targets": [host]}],
                    },
                    *more,
                ],
            }
        )
    )
    assert BINARY is not None
    process = await asyncio.create_subprocess_exec(
        BINARY,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data or folder / 'data'}",
        "--storage.tsdb.retention.time=10y",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{url}/-/ready") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        yield url
    finally:
        process.kill()
        await process.wait()


async def scraped(url: str, query: str) -> None:
    """Wait until a query has a result."""
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/api/v1/query", params={"query": query}) as answer:
                if (await answer.json())["data"]["result"]:
                    return
            await asyncio.sleep(0.05)
