"""A Secret in a container (pure)."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SecretMount:
    """A Secret that a container sees as a folder."""

    name: str
    secret: str
    path: str

    def volume(self) -> dict[str, Any]:
        """The volume. Optional: a Secret that is made later appears, and until then everyone is refused."""
        return {"name": self.name, "secret": {"secretName": self.secret, "optional": True}}

    def mount(self) -> dict[str, Any]:
        """The mount."""
        return {"name": self.name, "mountPath": self.path, "readOnly": True}
