"""The graph of an agent's stages: which exist, when each may run, on what, and what the answer is (pure)."""
