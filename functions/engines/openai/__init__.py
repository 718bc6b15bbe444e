"""The engine `openai`: a model behind any OpenAI-compatible URL."""
