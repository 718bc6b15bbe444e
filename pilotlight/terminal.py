"""Where the command line prints: a person's terminal as wide as it is, a pipe without wrapping."""

from rich.console import Console

_PIPE_COLUMNS = 250


def console() -> Console:
    """The console for standard output.

    Rich takes a pipe for 80 columns and folds table cells there, which neither grep nor a log reader wants.
    """
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_PIPE_COLUMNS)


def stderr_console() -> Console:
    """The console for what is shown while a command works, so that its output can be redirected."""
    return Console(stderr=True, highlight=False)
