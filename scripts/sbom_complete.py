"""Completes a bill of materials: the image it is of, Debian's packages; checked by CycloneDX's own schema.

python scripts/sbom_complete.py PYTHON.json IMAGE VERSION DEBIAN.tsv
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def debian(line: str) -> dict[str, Any]:
    """A component of one line of dpkg-query: package, version and architecture between tabs."""
    name, version, architecture = line.split("\t")
    url = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def main() -> None:
    """Print the document; nothing is printed that the schema refuses."""
    source, image, version, listed = sys.argv[1:]
    document = json.loads(Path(source).read_text())
    document["metadata"]["component"] = {
        "type": "container",
        "bom-ref": image,
        "name": image,
        "version": version,
    }
    if (path := Path(listed)).exists():
        document["components"] += map(debian, path.read_text().splitlines())
    for component in document["components"]:
        # Where a lock was read from says nothing about the package.
        component.pop("description", None)
    text = json.dumps(document, indent=1, sort_keys=True)
    if (error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        sys.exit(f"{image}: CycloneDX's schema refuses the document: {error}")
    print(text)


main()
