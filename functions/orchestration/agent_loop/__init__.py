"""The loop of an agent: a model proposes calls of tools, they are made, it goes on until it answers."""
