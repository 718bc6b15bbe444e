"""What the tests of the cache share: loads, in this process and in others, and a look at its blobs."""

import textwrap
from pathlib import Path

from tests.weights.conftest import QUICK, Bucketed, digests_of
from weights.loading.model import open_model

LOAD = textwrap.dedent(
    """
    import hashlib, json, sys
    from pathlib import Path
    from weights.loading.model import open_model
    with open_model(sys.argv[1], cache_dir=Path(sys.argv[2])) as model:
        found = {entry.name: hashlib.sha256(data).hexdigest() for entry, data in model}
    report = model.report()
    print(json.dumps({"found": found, "source": report.bytes_from_source, "error": report.cache_error}))
    """
)


def load(bucketed: Bucketed, cache_dir: Path):
    """Digests and report of one load through the cache."""
    with open_model(bucketed.uri, cache_dir=cache_dir, retry=QUICK) as model:
        found = digests_of(model)
    return found, model.report()


def blobs(cache_dir: Path) -> list[Path]:
    return sorted(
        (path for path in (cache_dir / "blobs").iterdir() if path.suffix != ".parts"),
        key=lambda path: path.stat().st_size,
    )
