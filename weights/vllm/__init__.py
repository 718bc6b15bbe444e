"""The vLLM loader `--load-format pilotlight`."""
