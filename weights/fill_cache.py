"""Fill the cache with a model and print how far it is: what a container that warms a cache runs.

    python -m weights.fill_cache s3://bucket/prefix

The cache is that of `PILOTLIGHT_CACHE_DIR`, of at most `PILOTLIGHT_CACHE_QUOTA` bytes. Standard output is a
JSON object a line, of a `kind`:

    progress  done_bytes, total_bytes, seconds: at most once a second
    done      the same, and read_bytes: what came from the source; the rest was cached
    failed    message

The exit code is 0, or 1 after `failed`. SIGTERM ends it at once, with 143: what has arrived is kept, and the
next run goes on from there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from weights.cache.location import default_cache_dir, default_cache_quota
from weights.cache.progress import Progress
from weights.errors import WeightsError
from weights.pull_model import pull_blocking

_EVERY_S = 1.0
_TERMINATED = 128 + signal.SIGTERM


def fill(
    uri: str,
    environ: Mapping[str, str],
    write: Callable[[dict[str, Any]], None],
    *,
    every_s: float = _EVERY_S,
) -> int:
    """Bring the whole model into the cache, or find it there.

    Args:
        uri: `s3://bucket/prefix`.
        environ: names the cache.
        write: receives the lines described above.
        every_s: seconds between two lines of progress.

    Returns:
        The exit code.
    """
    shown: Progress | None = None

    def report(state: Progress) -> None:
        nonlocal shown
        if shown is None or state.seconds - shown.seconds >= every_s:
            shown = state
            write({"kind": "progress"} | _numbers(state))

    try:
        pulled = pull_blocking(
            uri,
            cache_dir=default_cache_dir(environ),
            progress=report,
            quota_bytes=default_cache_quota(environ),
        )
    except (WeightsError, ValueError) as error:
        write({"kind": "failed", "message": str(error)})
        return 1
    pulled.release()
    total = pulled.manifest.total_bytes
    done = _numbers(Progress(total, total, pulled.seconds))
    write({"kind": "done"} | done | {"read_bytes": pulled.bytes_read})
    return 0


def _numbers(state: Progress) -> dict[str, Any]:
    return {
        "done_bytes": state.done_bytes,
        "total_bytes": state.total_bytes,
        "seconds": round(state.seconds, 1),
    }


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Fill the cache with the model that the first argument names."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m weights.fill_cache URI\n")
        return 2
    # The first process of a container has no default action for signals. The cache bears an end at any byte.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(_TERMINATED))
    return fill(sys.argv[1], os.environ, _print)


if __name__ == "__main__":
    sys.exit(main())
