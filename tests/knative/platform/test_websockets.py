"""A replica with an open WebSocket hears that it is to end."""

from knative.client.resources import SERVICE
from tests.knative.platform.conftest import LocalCluster, service, until

SERVER = """
import asyncio, os, signal
from aiohttp import WSCloseCode, web

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async def talk(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("hello")
        await stop.wait()
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"SIGTERM")
        return socket
    app = web.Application()
    app.router.add_get("/", talk)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
    await stop.wait()
    await runner.cleanup()

asyncio.run(main())
"""


async def test_a_websocket_server_gets_sigterm_while_a_connection_is_open(local: LocalCluster):
    await local.cluster.create(
        SERVICE, service("a", container={"command": ["python", "-c", SERVER], "args": []})
    )
    await local.ready("a")
    async with local.http.ws_connect(f"{local.platform.gateway_url}/default/a/") as socket:
        assert await socket.receive_str() == "hello"
        await local.cluster.delete(SERVICE, "a", "default")
        await socket.receive(timeout=10)
        assert socket.close_code == 1001

    async def gone():
        return not await local.pods()

    await until(gone, timeout_s=10)
