"""``tractbench new``."""

from __future__ import annotations

import json
import keyword
import os
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated

import typer

from tractbench.errors import ConfigError, choose
from tractbench.io.files import unwritable
from tractbench.plugins import WORDS, Kind, components, normal

KINDS: Mapping[str, Kind] = {"method": "methods", "dataset": "datasets", "extractor": "extractors"}
TEMPLATES = Path(__file__).parent / "templates"


def new(
    what: Annotated[str, typer.Argument(help="method, dataset or extractor.")],
    name: Annotated[str, typer.Argument(help="Its name: letters, digits and hyphens.")],
    into: Annotated[Path, typer.Option(help="Folder in which the package's folder is made.")] = Path(),
) -> None:
    """Write a package of your own with a small component that works: the place to start from.

    It has an entry point, a test, a README and a workflow for GitHub. Nothing is overwritten.

    Examples:
      tractbench new method my-method
      tractbench new extractor my-features --into ~/src
    """
    what = choose(what, "component", KINDS)
    found = normal(name)
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", found) or keyword.iskeyword(found):
        raise ConfigError(f"name {name!r}: give letters, digits and hyphens, a letter first, such as my-{what}")
    for taken in components(KINDS[what]).get(found, ()):
        raise ConfigError(
            f"{WORDS[KINDS[what]]} '{taken.name}' is there already, of {taken.origin}; choose another name"
        )
    folder = into / f"tractbench-{found.replace('_', '-')}"
    _write(folder, _files(what, found))
    print(f"wrote {folder}: read its README.md; next: pip install -e {folder}", file=sys.stderr)


def _files(what: str, name: str) -> dict[str, str]:
    """Return a package's files by their paths."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    package = f"tractbench_{name}"
    words = {
        "what": what,
        "word": WORDS[KINDS[what]],
        "kind": KINDS[what],
        "name": name,
        "package": package,
        "project": package.replace("_", "-"),
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "source": _source(),
    }
    templates = Environment(  # noqa: S701 - what is written is no HTML
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"src/{package}/__init__.py": "init.py",
        f"src/{package}/{what}.py": f"{what}.py",
        f"tests/test_{name}.py": "test.py",
        ".github/workflows/test.yml": "test.yml",
    }
    if what == "dataset":
        files[f"src/{package}/workload.toml"] = "workload.toml"
    return {path: templates.get_template(f"{source}.jinja").render(words) for path, source in files.items()}


def _source() -> str:
    """Return what pip installs this tractbench from, "" if it came from no repository (PEP 610)."""
    said = json.loads(distribution("tractbench").read_text("direct_url.json") or "{}")
    vcs = said.get("vcs_info")
    return f"{vcs['vcs']}+{said['url']}@{vcs['commit_id']}" if vcs else ""


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files into a folder that is not there before, whole or not at all."""
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} is there already; nothing is overwritten: choose another name or --into")
    made = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for path, text in files.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        made.rename(folder)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise unwritable(folder, error) from error
