"""Experiments: what warm-pool policies would cost on a trace, and how many requests they would leave cold."""
