"""The name of the load format, and the log messages by which another process follows a load."""

from __future__ import annotations

LOAD_FORMAT = "pilotlight"

LOADER_LOGGER = "weights.vllm.loader"
"""The logger of the loader, in whichever of vLLM's processes it runs."""
LOADING_MESSAGE = "loading %s"
"""The loader begins to read; the argument is the model."""
LOADED_MESSAGE = "%s: %d bytes from the source, %d from the cache"
"""The loader has read the model and completed the cache for the next start."""
