"""Names of the environment variables that configure a stage's container.

An agent file is compiled to them, the local platform adds its own, and the stage's settings read them.
"""

from __future__ import annotations

PREFIX = "PILOTLIGHT_"

HOST = f"{PREFIX}HOST"
"""Address that the stage's server binds."""
GATEWAY = f"{PREFIX}GATEWAY"
"""Base URL under which the other Services answer; unset where their host names resolve."""
AGENT = f"{PREFIX}AGENT"
MODEL_URI = f"{PREFIX}MODEL_URI"
MODEL_NAME = f"{PREFIX}MODEL_NAME"
ENGINE = f"{PREFIX}ENGINE"
ENGINE_ARGS = f"{PREFIX}ENGINE_ARGS"
"""The engine's options, a JSON object."""
STAGES = f"{PREFIX}STAGES"
"""The stages that an orchestrate stage calls in turn, a JSON array."""
STAGE_CONFIG = f"{PREFIX}STAGE_CONFIG"
"""The options of the stage's kind, a JSON object."""
WARMTH = f"{PREFIX}WARMTH"
ADMIN_TOKEN = f"{PREFIX}ADMIN_TOKEN"
"""Bearer token of the endpoints that change a replica's warmth; without it there are none."""
ARTEFACT_KEY = f"{PREFIX}ARTEFACT_KEY"
"""Signs compiled artefacts, which are restored only with this signature; without it, by their owner."""
DRAIN_SECONDS = f"{PREFIX}DRAIN_SECONDS"
FAILURE_SECONDS = f"{PREFIX}FAILURE_SECONDS"
DEADLINE_SECONDS = f"{PREFIX}DEADLINE_SECONDS"
QUEUE_LIMIT = f"{PREFIX}QUEUE_LIMIT"
HEAD_BYTES = f"{PREFIX}HEAD_BYTES"
HEAD_SECONDS = f"{PREFIX}HEAD_SECONDS"
BODY_SECONDS = f"{PREFIX}BODY_SECONDS"
ALLOWED_ORIGINS = f"{PREFIX}ALLOWED_ORIGINS"
"""Origins of web pages that may call the stage, separated by commas."""
LOG_LEVEL = f"{PREFIX}LOG_LEVEL"
