import ast
import importlib
from pathlib import Path

import pytest

import tractbench

# From the bottom up; a module imports only from rooms further up in this list, or from its own room.
LAYERS = [
    {"errors", "progress", "tables", "seeds", "workloads"},
    {"plugins"},
    {"io"},
    {"diffusion", "nets"},
    {"method"},
    {"consistency"},
    {"datasets"},
    {"registry"},
    {"config"},
    {"training"},
    {"teachers"},
    {"evaluation"},
    {"methods"},
    {"results"},
    {"claims"},
    {"pipeline"},
    {"checks", "regress", "reports"},
    {"export"},
    {"hub"},
    {"cli"},
    {"__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
ROOT = Path(tractbench.__file__).parent


def sources():
    for package in ("tractbench", "tractbench.methods", "tractbench.reports", "tractbench.tables"):
        for folder in importlib.import_module(package).__path__:
            for path in sorted(Path(folder).rglob("*.py")):
                relative = path.relative_to(folder).with_suffix("")
                name = ".".join((package, *relative.parts)).removesuffix(".__init__")
                yield name, path


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(module):
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize(("name", "path"), [pytest.param(n, p, id=n) for n, p in sources() if room(n)])
def test_imports_point_downwards(name, path):
    own = room(name)
    for module in imported(path):
        if module.split(".")[0] == "tractbench" and room(module) not in ("", own):
            assert RANK[room(module)] < RANK[own], f"{name} imports {module}"


def test_every_room_has_a_rank():
    assert {room(name) for name, _ in sources()} - {""} <= set(RANK)


@pytest.mark.parametrize("heavy", ["torch", "pandas", "matplotlib", "pydantic", "sklearn", "huggingface_hub"])
def test_help_needs_no_heavy_import(heavy):
    import subprocess
    import sys

    code = f"import sys, tractbench.cli; sys.exit({heavy!r} in sys.modules)"
    if heavy == "pydantic":  # typer itself may need it: then it is not ours to avoid
        code = f"import sys, typer; before = {heavy!r} in sys.modules\n" + code.replace(
            "sys.exit(", "sys.exit(not before and "
        )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
