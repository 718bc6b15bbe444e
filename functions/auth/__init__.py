"""Who calls a stage: API keys, JSON Web Tokens, the token of the agent's stages; and what each may use."""
