"""Where the local platform keeps its state. `weights.cache.location` decides where the weights cache is."""

import os
from pathlib import Path

import platformdirs


def state_dir() -> Path:
    """The local platform's database, kubeconfig, logs and process file.

    `PILOTLIGHT_STATE` names it for every command; else it is where the XDG Base Directory Specification says.
    """
    named = os.environ.get("PILOTLIGHT_STATE")
    return Path(named).expanduser().absolute() if named else platformdirs.user_state_path("pilotlight")
