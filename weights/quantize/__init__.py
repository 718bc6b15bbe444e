"""Smaller checkpoints in the compressed-tensors format that vLLM loads."""
