"""The shapes of the kinds that the local API serves: they validate, prune, apply and explain."""
