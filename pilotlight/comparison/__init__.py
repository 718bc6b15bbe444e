"""Compares checkpoints of one model: what each costs, and what it changes in the answers."""
