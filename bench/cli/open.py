"""``tractbench open``."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Runs
from tractbench.errors import ConfigError

TITLE = b"<title>tractbench report</title>"
BEGINNING = 4096
"""Bytes of a page within which a report says that it is one."""


def open_(
    page: Annotated[
        Path | None, typer.Argument(help="A page.", show_default="the newest report here or in the folder of results")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Open the newest report in a browser; where there is none, only say where the report is.

    Examples:
      tractbench report && tractbench open
      tractbench open paper.html
    """
    if page is None:
        page = max(_reports(Path(), runs), key=lambda path: path.stat().st_mtime, default=None)
        if page is None:
            raise ConfigError(f"no report in this folder nor in {runs}; write one: tractbench report")
    elif not page.is_file():
        raise ConfigError(f"no page {page}; give the path of one, or write one: tractbench report --out {page}")
    print(page)
    open_in_browser(page)


def open_in_browser(page: Path) -> None:
    """Open a page in a browser, or say on standard error that none can be opened."""
    try:
        opened = webbrowser.open(page.absolute().as_uri())
    except webbrowser.Error:
        opened = False
    if not opened:
        print("no browser can be opened here; open this file in one", file=sys.stderr)


def _reports(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        for path in folder.glob("*.html"):
            if path.is_file():
                with path.open("rb") as file:
                    if TITLE in file.read(BEGINNING):
                        yield path
