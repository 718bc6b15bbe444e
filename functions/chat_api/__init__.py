"""OpenAI's chat completions API, by which any of its clients talks to a whole agent."""
