"""vLLM: its processes, its server, its start."""
