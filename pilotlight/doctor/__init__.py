"""Checks of a cluster or a machine before the first deploy: facts are gathered, then judged (pure)."""
