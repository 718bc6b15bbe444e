"""A template process that imports next to nothing: python -m tests.functions.parked_process FOLDER

Parked, written and restored like the real one; it then reports what must differ between replicas.
"""

import json
import multiprocessing
import os
import random
import signal
import ssl
import sys
import uuid
from pathlib import Path

import numpy as np

from functions.engines.vllm import template, template_protocol
from functions.engines.vllm.snapshots import parking
from functions.engines.vllm.template_protocol import ImportFinished


def main() -> None:
    template.die_with_parent(signal.SIGKILL)
    # Every generator is in use before the process is written.
    random.random()
    np.random.random()  # noqa: NPY002 - the generator that a restored process renews
    ssl.RAND_bytes(8)
    control = parking.park(Path(sys.argv[1]))
    facts = {
        "random": random.random(),
        "numpy": float(np.random.random()),  # noqa: NPY002 - see above
        "openssl": ssl.RAND_bytes(16).hex(),
        "authkey": bytes(multiprocessing.current_process().authkey).hex(),
        "uuid": str(uuid.uuid4()),
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "streams": [str(Path(f"/proc/self/fd/{number}").readlink()) for number in range(3)],
        "policy": os.sched_getscheduler(0),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }
    control.send(template_protocol.encode(ImportFinished(0.0, 1, json.dumps(facts), "cpu")))
    while control.recv(1 << 16):
        pass


if __name__ == "__main__":
    main()
