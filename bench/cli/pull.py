"""``tractbench pull``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Json, Quiet, progress
from tractbench.cli.output import to_json

pull_app = typer.Typer(
    help="Take results and students from the Hugging Face Hub, checked by hash.", no_args_is_help=True
)

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub.")]
Into = Annotated[Path | None, typer.Option(help="Folder to write.", show_default="NAME of the repository")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit instead of the newest.", show_default=False)]

REFUSED = 1


@pull_app.command("store")
def pull_store(
    repository: Repository,
    into: Into = None,
    students: Annotated[bool, typer.Option("--students", help="Take students' weights and loss curves too.")] = False,
    revision: Revision = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken, and write nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Take a results store into a folder, a new one or one with runs of yours.

    Every file is compared with its hash. What is here already is not
    fetched; interrupted, the same command goes on. A run that is here with
    other scores is named, and then nothing is written.
    Exit status: 0, or 1 if a run was refused.

    Examples:
      tractbench pull store someone/digits-runs
      tractbench report --runs digits-runs
      tractbench pull store someone/digits-runs --into runs --students
    """
    from tractbench.hub import pull_store as engine
    from tractbench.hub.client import Hub

    quiet = quiet or as_json
    folder = into or Path(repository.rpartition("/")[2])
    pulled = engine.pull_store(
        Hub(), repository, folder,
        students=students, revision=revision, dry_run=dry_run, progress=progress(quiet),
    )  # fmt: skip
    for line in pulled.refused:
        print(f"tractbench: refused {line}", file=sys.stderr)
    if pulled.refused:
        print("nothing was written", file=sys.stderr)
    if as_json:
        print(to_json({"repository": repository, "into": str(folder), **asdict(pulled)}))
    elif not quiet:
        counts = [f"{len(getattr(pulled, name))} {name}" for name in ("copied", "replaced", "skipped", "refused")]
        would = "would be: " if dry_run else ""
        print(f"{folder}: {would}{', '.join(counts)} (commit {pulled.commit[:12]})")
    return REFUSED if pulled.refused else 0


@pull_app.command("student")
def pull_student(
    repository: Repository,
    into: Into = None,
    revision: Revision = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a student into a folder of its own, which appears once every file has been compared with its hash.

    Examples:
      tractbench pull student someone/tract-digits-1step
      tractbench pull student someone/tract-digits-1step --revision v1 --into student
    """
    from tractbench.hub import students
    from tractbench.hub.client import Hub

    quiet = quiet or as_json
    folder = into or Path(repository.rpartition("/")[2])
    snapshot, was_there = students.pull_student(Hub(), repository, folder, revision=revision, progress=progress(quiet))
    if as_json:
        fields = {"repository": repository, "into": str(folder), "commit": snapshot.commit, "was_there": was_there}
        print(to_json(fields))
    elif not quiet:
        print(f"{folder}: {'there already' if was_there else 'written'} (commit {snapshot.commit[:12]})")
