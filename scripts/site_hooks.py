"""What `mkdocs build` adds to the pages in docs/ (mkdocs.yml names this file).

The page cli.md is made from the command line itself, the package that docstrings are read from is laid out from the
checkout's folders, and a page that would load anything from elsewhere is a warning, which `--strict` makes an error.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.plugins import event_priority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CLI = "cli.md"
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Elements that a browser loads something for, and the attribute that says what."""

_packages: list[tempfile.TemporaryDirectory[str]] = []


@event_priority(100)  # before mkdocstrings reads them
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay the package out for mkdocstrings: the checkout's folders under the names that they are imported by."""
    folder = tempfile.TemporaryDirectory(prefix="tractbench-site-")
    _packages.append(folder)
    layout = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-dir"]
    for package, source in layout.items():
        target = Path(folder.name, *package.split("."))
        shutil.copytree(
            ROOT / source, target, ignore=lambda _, names: [n for n in names if n.endswith((".pyc", ".jsonl"))]
        )
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [folder.name]  # type: ignore[index]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the command line."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, CLI, content=command_line()))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of what the page would load from elsewhere."""
    from mkdocs.plugins import get_plugin_logger

    for address in sorted(set(_Loaded.of(output))):
        get_plugin_logger("tractbench").warning(f"{page.file.src_uri} loads {address}, which is not of this site")
    return output


def on_shutdown() -> None:
    """Remove the laid-out package."""
    while _packages:
        _packages.pop().cleanup()


class _Loaded(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def of(cls, page: str) -> list[str]:
        parser = cls()
        parser.feed(page)
        return parser.found

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        address = given.get(LOADS.get(tag, "")) or ""
        if re.match(r"(https?:)?//", address) and given.get("rel") not in {"canonical", "next", "prev"}:
            self.found.append(address)


def command_line() -> str:
    """Return the page of all verbs: what each prints as help, as text, examples and a table of its options."""
    import typer

    from tractbench.cli import app

    command = typer.main.get_command(app)
    return (
        "\n\n".join(["# Command line", "What `--help` says of every verb.", *_verbs(command, ("tractbench",))]) + "\n"
    )


def _verbs(command: Any, words: tuple[str, ...]) -> Iterator[str]:
    for name, verb in sorted(command.commands.items()):
        yield from _verb(verb, (*words, name))
        if hasattr(verb, "commands"):
            yield from _verbs(verb, (*words, name))


def _verb(verb: Any, words: tuple[str, ...]) -> Iterator[str]:
    yield f"{'#' * len(words)} `{' '.join(words)}`"
    for paragraph in (verb.help or "").split("\n\n"):
        title, *lines = paragraph.splitlines()
        if lines and all(line.startswith("  ") for line in lines):
            yield _plain(title)
            yield "\n".join(["```sh", *(line.strip() for line in lines), "```"])
        else:
            yield _plain(" ".join(paragraph.split()))
    if not hasattr(verb, "commands"):
        context = verb.context_class(verb, info_name=words[-1])
        rows = [record for parameter in verb.params if (record := parameter.get_help_record(context))]
        yield "\n".join(["| option | meaning |", "| --- | --- |", *(f"| {_code(o)} | {_plain(m)} |" for o, m in rows)])


def _code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|")


def _plain(text: str) -> str:
    """Return text in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
