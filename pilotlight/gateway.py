"""The process file of the platform on this machine: which process it is, and where function URLs answer."""

import json
from pathlib import Path

from pilotlight import paths

PROCESS_FILE = "up.json"
"""In the state folder while `pilotlight up` runs: its process id and start time, and the gateway's URL."""
DEFAULT_GATEWAY = "http://127.0.0.1:8080"


def running_gateway(state_dir: Path) -> str | None:
    """The gateway's URL of the platform that runs on a state folder; None where none does."""
    try:
        url = json.loads((state_dir / PROCESS_FILE).read_text())["gateway"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if isinstance(url, str) else None


def default_gateway(state_dir: Path | None = None) -> str:
    """The running platform's gateway, else where one is by default."""
    return running_gateway(state_dir or paths.state_dir()) or DEFAULT_GATEWAY
