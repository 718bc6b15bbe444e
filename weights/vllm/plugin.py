"""The entry point through which any vLLM finds `--load-format pilotlight`.

vLLM calls `register` through the entry point group `vllm.general_plugins` in each of its processes while it
parses its arguments. This module therefore imports next to nothing at the top: processes that load no model
pay nothing for it.
"""

from __future__ import annotations

from weights.vllm.load_format import LOAD_FORMAT


def register() -> None:
    """Register the load format with vLLM. Safe to call more than once."""
    from vllm.model_executor.model_loader import register_model_loader  # noqa: PLC0415 - see above

    from weights.vllm.loader import PilotlightLoader  # noqa: PLC0415 - see above

    register_model_loader(LOAD_FORMAT)(PilotlightLoader)
