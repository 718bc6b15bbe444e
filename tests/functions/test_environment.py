"""Only `functions/settings.py` reads the environment of a function."""

import ast
from pathlib import Path

import pytest

FUNCTIONS = Path(__file__).parents[2] / "functions"
VLLM = FUNCTIONS / "engines" / "vllm"
# These run in vLLM's own processes and set vLLM's own variables there.
IN_VLLM = {VLLM / "template.py", VLLM / "snapshots" / "parking.py", *(VLLM / "vllm_internals").glob("*.py")}
READERS = {"environ", "environb", "getenv", "getenvb"}
MODULES = sorted(set(FUNCTIONS.rglob("*.py")) - IN_VLLM - {FUNCTIONS / "settings.py"})


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(FUNCTIONS)))
def test_a_module_does_not_read_the_environment(module):
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in READERS, f"{module}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not READERS & {name.name for name in node.names}, f"{module}:{node.lineno}"
