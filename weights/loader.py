"""The door through which any vLLM finds `--load-format pilotlight`.

vLLM calls `register` through the entry point group `vllm.general_plugins` in each of its processes, before
it has read its own configuration, so this module imports nothing at the top: a vLLM that loads its weights
another way pays nothing for having Pilotlight installed.
"""

from __future__ import annotations


def register() -> None:
    """Tell vLLM about Pilotlight's loader. Safe to call more than once."""
