"""What ends a comparison: something that was given, or something that happened."""


class CompareInputError(ValueError):
    """A folder, a file or an option cannot be used; the message names it."""


class CompareError(RuntimeError):
    """A comparison cannot go on; the message says why."""
