"""Load from wrk, a Debian package (`apt-get install wrk`), on a stage's `POST /invoke`."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BODY = '{"input":"Where is my order?"}'


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw.

    Attributes:
        requests: that were answered, all of them well.
        per_second: requests answered in a second.
    """

    requests: int
    per_second: float


def require() -> None:
    """End the benchmark where wrk is missing."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")


def post(url: str, folder: Path, *, connections: int, seconds: int, key: str | None = None) -> Load:
    """Post `BODY` to `URL/invoke` from so many connections, for so many seconds; `folder` gets a script."""
    script = folder / "post.lua"
    header = "" if key is None else f'wrk.headers["Authorization"] = "Bearer {key}"\n'
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = '{BODY}'\n{header}"
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"{url}/invoke"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate, requests = re.search(r"Requests/sec:\s+([0-9.]+)", out), re.search(r"(\d+) requests in", out)
    if "Non-2xx" in out or rate is None or requests is None:
        raise SystemExit(f"not every request was answered:\n{out}")
    return Load(int(requests[1]), float(rate[1]))
