"""``tractbench push``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Device, Runs, Tables, chosen_device, run_folder, warn_damaged, with_plugins, working
from tractbench.cli.sending import Sending, with_sending
from tractbench.errors import ConfigError

push_app = typer.Typer(help="Send results and students to the Hugging Face Hub, after asking.", no_args_is_help=True)

Repository = Annotated[
    str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub; made if it is not there.")
]


@push_app.command("store")
@with_sending
def push_store(
    sending: Sending,
    repository: Repository,
    runs: Runs = Path("runs"),
    students: Annotated[bool, typer.Option("--students", help="Send students' weights and loss curves too.")] = False,
) -> int:
    """Send a results folder as a dataset repository, which others pull and report on.

    Sent are records, without paths and flags of this machine, pictures of
    samples, registered plans and a card with the scores; no logs, caches or
    checkpoints. What is there with the same hash is not sent again, and
    interrupted, the same command goes on. A run that is there with other
    scores is named, and then nothing is sent; one whose record names a
    place of this machine or a token is named and left out.
    Exit status: 0, or 1 if a run was refused or left out or you said no.

    Examples:
      tractbench push store me/digits-runs
      tractbench push store lab/cifar10 --runs runs --students --private
      tractbench push store me/digits-runs --dry-run --json
    """
    from tractbench.hub.push_store import plan_store
    from tractbench.results.store import Store

    hub, store = sending.hub(), Store(runs)
    plan = plan_store(
        hub, repository, store, students=students, private=sending.private, progress=sending.progress
    )  # fmt: skip
    warn_damaged(store)
    for line in plan.refused:
        print(f"tractbench: refused {line}", file=sys.stderr)
    for line in sorted(set(plan.left_out) - set(store.damaged)):
        print(f"tractbench: left out {line}", file=sys.stderr)
    count = f"{len(plan.sent)} run{'s' * (len(plan.sent) != 1)}"
    text = f"{count} of {runs}, {len(plan.there)} there already"
    if plan.own_card:
        text += "; the card there is its owner's and stays"
    lists = {"runs": plan.sent, "there": plan.there, "left_out": plan.left_out, "refused": plan.refused}
    return sending.send(
        hub, plan.upload, count, text, lists, pull="store", refused=bool(plan.refused), left_out=bool(plan.left_out)
    )


@push_app.command("student")
@with_plugins
@with_sending
def push_student(
    sending: Sending,
    student: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, eight digits of its identity, or a cell TABLE/ROW/NFE; or a folder of 'export'.",
        ),
    ],
    repository: Repository,
    form: Annotated[
        str | None, typer.Option("--format", help="Of a run: diffusers, safetensors or onnx.", show_default="diffusers")
    ] = None,
    tables: Tables = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> int:
    """Send a student as a model repository: a run's, which is exported first, or a folder that export wrote.

    All its files are sent as they are, but for hidden ones; a text file that
    names a place of this machine or holds a token is refused. A file that is
    there with other contents is named, and then nothing is sent; only a
    card (README.md) that is there stays.
    Exit status: 0, or 1 if a file was refused or you said no.

    Examples:
      tractbench push student 6ac6e1ab me/tract-digits-1step
      tractbench push student digits/tract/1 me/tract-onnx --format onnx
      tractbench push student exported me/tract-digits-1step --private --yes
    """
    from tractbench.hub.remote import repository as checked
    from tractbench.hub.students import plan_student

    hub = sending.hub()
    checked(repository)  # before anything is exported
    with _exported(student, form, tables, runs, device, sending) as (folder, text):
        plan = plan_student(hub, repository, folder, private=sending.private)
        for line in plan.refused:
            print(f"tractbench: refused {line}: {repository} has it with other contents", file=sys.stderr)
        text += f", {len(plan.there)} files there already"
        if plan.own_card:
            text += "; the card there stays"
        lists = {"there": plan.there, "refused": plan.refused}
        return sending.send(hub, plan.upload, "a student", text, lists, pull="student", refused=bool(plan.refused))


@contextmanager
def _exported(
    student: str, form: str | None, tables: Path | None, runs: Path, device: str, sending: Sending
) -> Iterator[tuple[Path, str]]:
    """Yield a student's folder, for the length of the context, and what it is in words.

    Raises:
        ConfigError: nothing is called so, or it is a folder that was exported and a format is asked for.
        TractbenchError: see :func:`tractbench.export.exporting.export_run`.
    """
    from tractbench.export.exporting import check_target, export_run
    from tractbench.results.store import RECORD

    folder = Path(student)
    if folder.is_dir() and not (folder / RECORD).is_file():
        if form is not None:
            raise ConfigError(f"{student} is a folder that was exported; --format is for a run: leave it out")
        yield folder, f"the student in {student}"
        return
    run = run_folder(student, runs, tables)
    with tempfile.TemporaryDirectory(prefix="tractbench-") as scratch:
        target = Path(scratch) / "student"
        form = check_target(target, form or "diffusers")
        with working("exporting", quiet=sending.quiet or sending.as_json):
            export_run(run, form, target, chosen_device(device))
        yield target, f"the student of {run} as {form}"
