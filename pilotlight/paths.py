"""Where the local platform keeps its state. `weights.cache.location` decides where the weights cache is."""

from pathlib import Path

import platformdirs


def state_dir() -> Path:
    """The local platform's database, kubeconfig, logs and process file (XDG Base Directory Specification)."""
    return platformdirs.user_state_path("pilotlight")
