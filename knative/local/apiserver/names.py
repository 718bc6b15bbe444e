"""Names that the server makes up."""

from __future__ import annotations

import random
import string

# Without vowels and characters that look alike, as in k8s.io/apimachinery, `pkg/util/rand`.
_CHARACTERS = [letter for letter in string.ascii_lowercase + string.digits if letter not in "aeiou013l"]


def generate_name(prefix: str) -> str:
    """A name that begins with `prefix` (`metadata.generateName`)."""
    return prefix + "".join(random.choices(_CHARACTERS, k=5))  # noqa: S311  # a name
