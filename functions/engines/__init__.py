"""Engines behind one protocol: vLLM, any OpenAI-compatible URL, ONNX embedding models."""
