"""The entry point through which any vLLM finds `--load-format pilotlight`.

vLLM calls `register` through the entry point group `vllm.general_plugins` in each of its processes while it
parses its arguments. This module therefore imports nothing at the top: processes that load no model pay
nothing for it.
"""

from __future__ import annotations

LOAD_FORMAT = "pilotlight"

LOADER_LOGGER = "weights.vllm.loader"
"""The logger of the loader. Its messages below tell another process's log reader how a load goes."""
LOADING_MESSAGE = "loading %s"
"""The loader begins to read; the argument is the model."""
LOADED_MESSAGE = "%s: %d bytes from the source, %d from the cache"
"""The loader has read the model and completed the cache for the next start."""


def register() -> None:
    """Register the load format with vLLM. Safe to call more than once."""
    from vllm.model_executor.model_loader import register_model_loader  # noqa: PLC0415 - see above

    from weights.vllm.loader import PilotlightLoader  # noqa: PLC0415 - see above

    register_model_loader(LOAD_FORMAT)(PilotlightLoader)
