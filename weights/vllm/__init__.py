"""vLLM's load format `pilotlight`: its plugin and its model loader."""
