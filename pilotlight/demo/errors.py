"""The demo's own failure, apart from the demo, which needs the packages of its extra."""


class DemoError(RuntimeError):
    """The demo cannot go on; the text says why."""
