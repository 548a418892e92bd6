"""A built wheel holds what the tree's folders hold: no package and no data file can be forgotten."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "bench": "tractbench",
    "methods": "tractbench/methods",
    "reports": "tractbench/reports",
    "tables": "tractbench/tables",
}
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def tree():
    """The files that a wheel should hold, by the folders' places in the package; caches are no part of it."""
    return {
        str(PurePosixPath(package, path.relative_to(ROOT / folder).as_posix()))
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def built(folder):
    """The files in a wheel, built from a copy of the tree: in the tree itself an earlier build's files would count."""
    source = folder / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_a_wheel_holds_the_trees_files_and_nothing_else(tmp_path):
    found, wanted = built(tmp_path), tree()
    assert {"tractbench/py.typed", "tractbench/reports/templates/report.html"} <= wanted
    inside = {name for name in found if name.startswith("tractbench/")}
    assert inside - wanted == set(), "in the wheel and not in the tree"
    assert wanted - inside == set(), "in the tree and not in the wheel; see [tool.setuptools] in pyproject.toml"
    assert {PurePosixPath(name).parts[0].rpartition(".")[2] for name in found - inside} == {"dist-info"}
