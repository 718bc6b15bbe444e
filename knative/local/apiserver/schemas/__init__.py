"""Schemas of the kinds that the local API serves: for validation, pruning, field ownership and `explain`."""
