"""`pilotlight controller`: the warm-pool controller alone."""

from warmpool.controller.__main__ import app

__all__ = ["app"]
