"""A platform in a process of its own: STATE_DIR GATEWAY_PORT API_PORT GPUS."""

import asyncio
import signal
import sys
from pathlib import Path

from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    state, gateway, api, gpus = sys.argv[1:]
    config = PlatformConfig(
        Path(state),
        gateway_port=int(gateway),
        api_port=int(api),
        gpus=int(gpus),
        crash_backoff_s=0.2,
        stop_grace_s=2,
    )
    async with Platform(config) as platform:
        sys.stdout.write(f"{platform.gateway_url} {platform.api_url}\n")
        sys.stdout.flush()
        await stop.wait()


asyncio.run(main())
