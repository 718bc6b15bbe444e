"""GPU prices from a YAML or JSON file.

The packaged list (`prices.yaml` beside this module) is a set of examples to edit.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from warmpool.domain.cost import PriceList
from warmpool.domain.spec_errors import SpecError


@lru_cache(maxsize=1)
def packaged_prices() -> PriceList:
    """The list that comes with the package: examples to edit."""
    return PriceList.parse(yaml.safe_load((files("warmpool.adapters") / "prices.yaml").read_text()))


def read_prices(path: Path | None) -> PriceList:
    """The price list in a YAML or JSON file; the packaged examples when no file is named.

    Raises:
        SpecError: the file is not a price list.
        OSError: the file cannot be read.
    """
    if path is None:
        return packaged_prices()
    try:
        content: Any = yaml.safe_load(path.read_text())
    except yaml.YAMLError as problem:
        raise SpecError([f"{path} is not YAML: {problem}"]) from problem
    return PriceList.parse(content)
