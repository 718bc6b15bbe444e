"""A folder for a new agent: the files of a template, with the agent's name in them."""

import re
import shutil
import tempfile
from pathlib import Path

TEMPLATES = Path(__file__).with_name("templates")
DEFAULT = "tool-agent"
LONGEST = 40
"""Characters of a name, so that with a stage's name it still fits the Service's."""

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_PLACEHOLDER = "AGENT_NAME"


class InitError(ValueError):
    """No folder was made; the message says why, and what would be right."""


def templates() -> list[str]:
    """The templates' names."""
    return sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir())


def new_agent(folder: Path, template: str = DEFAULT) -> list[str]:
    """Make the folder; its last part is the agent's name. The names of the files in it.

    Raises:
        InitError: a bad name, no such template, a folder that holds something. Nothing is changed then.
    """
    folder = folder.expanduser().absolute()
    name = folder.name
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        raise InitError(f"NAME = {name!r}, must be of lower-case letters, digits and '-', at most {LONGEST}")
    if template not in templates():
        raise InitError(f"--template = {template!r}, must be one of {', '.join(templates())}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InitError(f"{folder} holds something already; must be absent or an empty folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
        try:
            files = _write(TEMPLATES / template, scratch, name)
            scratch.chmod(0o755)
            if folder.exists():  # perhaps the one that the command runs in, so it stays
                for name_of_file in files:
                    (scratch / name_of_file).rename(folder / name_of_file)
                scratch.rmdir()
            else:
                scratch.rename(folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    except OSError as error:
        raise InitError(f"{folder} cannot be made: {error.strerror or error}") from error
    return files


def _write(template: Path, folder: Path, name: str) -> list[str]:
    files = []
    for source in sorted(template.iterdir()):
        if source.is_file():
            text = source.read_text(encoding="utf-8").replace(_PLACEHOLDER, name)
            (folder / source.name).write_text(text, encoding="utf-8")
            files.append(source.name)
    return files
