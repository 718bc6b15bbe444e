"""The door through which any vLLM finds `--load-format pilotlight`.

vLLM calls `register` through the entry point group `vllm.general_plugins` in each of its processes, when it
reads its arguments, so this module imports nothing at the top: `register` costs what is imported anyway.
"""

from __future__ import annotations

LOAD_FORMAT = "pilotlight"

LOGGER = "weights.vllm.loader"
"""Under which the loader tells what it does, in whichever of vLLM's processes it runs, by these messages."""
LOADING = "loading %s"
"""Reading begins."""
READ = "%s: %d bytes from the source, %d from the cache"
"""Reading, and what it left to do for the next start, has ended."""


def register() -> None:
    """Tell vLLM about the load format. Safe to call more than once."""
    from vllm.model_executor.model_loader import register_model_loader  # noqa: PLC0415 - see above

    from weights.vllm.loader import PilotlightLoader  # noqa: PLC0415 - see above

    register_model_loader(LOAD_FORMAT)(PilotlightLoader)
