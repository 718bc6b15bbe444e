"""A replay's own failure."""


class ReplayError(RuntimeError):
    """The replay cannot begin or go on; the text says why and what to do."""
