"""Code blocks of the documents, and what the comment above each says of running it.

A block is run as it stands, after those before it on its page and in the same folder, unless the line above it says

    <!-- not run: WHY -->      it is read only: its commands are parsed and their values looked up
    <!-- tiny -->              every 'tractbench run' in it is one of seconds (TINY)
    <!-- file: NAME -->        it is kept as that file, for the commands that follow; 'file: NAME, a table' says what
                               tractbench reads it as (READERS)
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"))
    if path.name != "CHANGELOG.md"
)
TINY = ("--tier", "smoke", "--set", "chunk=50", "--samples", "50", "--quiet")
"""What is added to a run: the smallest tier and a few images."""
TINY_VP = ("--set", "grid_steps=16")
"""What is added for a VP teacher, which has 1,024 steps else."""

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- (not run|tiny|file)(?:: ([^\n]+?))? -->\s*\Z")
LANGUAGES = {"", "sh", "python", "toml", "json", "bibtex"}


@dataclass(frozen=True)
class Block:
    """A fenced block: the line it begins at, its language, its text, and the mark above it with what that says."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    said: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page):
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        before = MARKER.search(text[: fence.start()])
        line, body = text.count("\n", 0, fence.start()) + 1, re.sub(f"(?m)^{fence[1]}", "", fence[3])
        found.append(Block(page, line, fence[2], body, *(before.groups("") if before else ("", ""))))
    return found


def prose(page):
    """A page without its blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def read_table(path):
    from tractbench.claims.loading import load_tables

    load_tables(path.parent)


def read_slurm_file(path):
    from tractbench.pipeline.suite_engine import read_slurm

    read_slurm(path, {})


def read_workload(path):
    from tractbench.datasets.additions import Addition, parsed, read_toml

    parsed(Addition, read_toml(path), path)


def read_settings(path):
    from tractbench.config.resolve import read_config_file, resolve

    resolve(read_config_file(path))


READERS = {"a table": read_table, "Slurm's settings": read_slurm_file, "a workload": read_workload,
           "settings": read_settings, "": lambda path: None}  # fmt: skip
