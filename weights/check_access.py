"""Say whether a model can be read and the cache be written: what a container does that probes a cluster.

    python -m weights.check_access s3://bucket/prefix

Only listings, indexes and headers are read. The cache is that of `PILOTLIGHT_CACHE_DIR`. Standard output is a
JSON object a line, of a `kind`:

    cache   path, problem: why it cannot be written; null if it can
    done    files, total_bytes, seconds
    failed  message: why the model cannot be read

The exit code is 0, or 1 if the model cannot be read.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weights.cache.location import default_cache_dir
from weights.errors import WeightsError
from weights.sources import listing
from weights.sources.factory import open_source


def check(uri: str, environ: Mapping[str, str], write: Callable[[dict[str, Any]], None]) -> int:
    """Read what a start reads first, and try the cache.

    Args:
        uri: `s3://bucket/prefix`, `file:///folder` or a path.
        environ: names the cache.
        write: receives the lines described above.

    Returns:
        The exit code.
    """
    folder = default_cache_dir(environ)
    write({"kind": "cache", "path": str(folder), "problem": _cache_problem(folder)})
    began = time.monotonic()
    try:
        source = open_source(uri)
        try:
            manifest = listing.inspect(source)
        finally:
            source.close()
    except WeightsError as error:
        write({"kind": "failed", "message": str(error)})
        return 1
    seconds = round(time.monotonic() - began, 2)
    write(
        {
            "kind": "done",
            "files": len(manifest.files),
            "total_bytes": manifest.total_bytes,
            "seconds": seconds,
        }
    )
    return 0


def _cache_problem(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Check the model that the first argument names."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m weights.check_access URI\n")
        return 2
    return check(sys.argv[1], os.environ, _print)


if __name__ == "__main__":
    sys.exit(main())
