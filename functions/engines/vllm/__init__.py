"""The engine `vllm`: its processes, its server, its warmth levels."""
