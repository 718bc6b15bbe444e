"""Composition root: the command line, the agent file and the demo. Nothing imports it."""
