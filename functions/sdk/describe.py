"""`python -m functions.sdk.describe MODULE:NAME ...`: what the model is told of tools, as one JSON object.

For each tool its `description` and `parameters`, or `error`. What the modules print goes to stderr.
"""

import contextlib
import json
import sys
from collections.abc import Sequence

from pydantic import JsonValue

from functions.sdk.loading import ModuleError, load
from functions.sdk.tools import Tool
from functions.settings import read_settings


def main(references: Sequence[str]) -> int:
    """Write the object; 0 also where a module has an error."""
    folder = read_settings().module_path
    found: dict[str, dict[str, JsonValue]] = {}
    with contextlib.redirect_stdout(sys.stderr):
        for reference in references:
            try:
                served = load(reference, folder)
            except ModuleError as error:
                found[reference] = {"error": str(error)}
                continue
            if isinstance(served, Tool):
                found[reference] = {"description": served.description, "parameters": served.parameters}
            else:
                found[reference] = {"error": f"{reference} is a {served.kind}, must be a tool"}
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
