"""Observe, decide, actuate: level-triggered."""
