"""``tractbench push``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli.options import Json, Quiet, Runs, progress, warn_damaged
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError

if TYPE_CHECKING:
    from tractbench.hub.client import Hub
    from tractbench.hub.upload import Upload

push_app = typer.Typer(help="Send results and students to the Hugging Face Hub, after asking.", no_args_is_help=True)

Repository = Annotated[
    str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub; made if it is not there.")
]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")]

REFUSED = 1


@push_app.command("store")
def push_store(
    repository: Repository,
    runs: Runs = Path("runs"),
    students: Annotated[bool, typer.Option("--students", help="Send students' weights and loss curves too.")] = False,
    private: Private = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
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
    from tractbench.hub.client import Hub
    from tractbench.hub.push_store import plan_store
    from tractbench.results.store import Store

    hub, store = Hub(), Store(runs)
    if not dry_run:
        hub.require_token()
    quiet = quiet or as_json
    plan = plan_store(hub, repository, store, students=students, private=private, progress=progress(quiet))
    warn_damaged(store)
    for line in plan.refused:
        print(f"tractbench: refused {line}", file=sys.stderr)
    for line in sorted(set(plan.left_out) - set(store.damaged)):
        print(f"tractbench: left out {line}", file=sys.stderr)
    count = f"{len(plan.sent)} run{'s' * (len(plan.sent) != 1)}"
    text = f"{count} of {runs}, {len(plan.there)} there already"
    if plan.own_card:
        text += "; the card there is its owner's and stays"
    done = _send(hub, plan.upload, count, text, bool(plan.refused), yes, dry_run, quiet)
    if as_json:
        lists = {"runs": plan.sent, "there": plan.there, "left_out": plan.left_out, "refused": plan.refused}
        print(to_json({**_described(hub, plan.upload, done), **lists}))
    elif done and not quiet:
        print(f"{_address(hub, plan.upload)} at {done[:12]}; others take it with: tractbench pull store {repository}")
    return REFUSED if plan.refused or plan.left_out or (done is None and not dry_run) else 0


@push_app.command("student")
def push_student(
    student: Annotated[Path, typer.Argument(metavar="FOLDER", help="Student as 'tractbench export' wrote it.")],
    repository: Repository,
    private: Private = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Send an exported student as a model repository.

    All its files are sent as they are, but for hidden ones; a text file that
    names a place of this machine or holds a token is refused. A file that is
    there with other contents is named, and then nothing is sent; only a
    card (README.md) that is there stays.
    Exit status: 0, or 1 if a file was refused or you said no.

    Examples:
      tractbench push student exported me/tract-digits-1step
      tractbench push student exported me/tract-digits-1step --private --yes
    """
    from tractbench.hub.client import Hub
    from tractbench.hub.students import plan_student

    if not student.is_dir():
        raise ConfigError(f"no folder {student}; 'tractbench export' writes one of a run")
    hub = Hub()
    if not dry_run:
        hub.require_token()
    quiet = quiet or as_json
    plan = plan_student(hub, repository, student, private=private)
    for line in plan.refused:
        print(f"tractbench: refused {line}: {repository} has it with other contents", file=sys.stderr)
    text = f"the student in {student}, {len(plan.there)} files there already"
    if plan.own_card:
        text += "; the card there stays"
    done = _send(hub, plan.upload, "a student", text, bool(plan.refused), yes, dry_run, quiet)
    if as_json:
        print(to_json({**_described(hub, plan.upload, done), "there": plan.there, "refused": plan.refused}))
    elif done and not quiet:
        print(f"{_address(hub, plan.upload)} at {done[:12]}; others take it with: tractbench pull student {repository}")
    return REFUSED if plan.refused or (done is None and not dry_run) else 0


def _send(
    hub: Hub, upload: Upload, message: str, text: str, refused: bool, yes: bool, dry_run: bool, quiet: bool
) -> str | None:
    """Say what is to be sent, ask, send it, and return the commit; None if nothing was sent."""
    made = "" if upload.before else ", to be made"
    lines = [f"{upload.kind} {upload.name} at {hub.endpoint}, {upload.visibility}{made}: {text}"]
    lines.append(f"{len(upload.files)} files, {_amount(upload.size)}" if upload.groups else "nothing to send")
    if not quiet or not (yes or dry_run or refused):
        print("\n".join(lines), file=sys.stderr)
    if refused or dry_run:
        print(f"nothing was sent{', as it is in conflict with what is there' if refused else ''}", file=sys.stderr)
        return None
    if not upload.groups:
        return upload.before.commit if upload.before else None
    if not yes and not _asked():
        print("nothing was sent", file=sys.stderr)
        return None
    return upload.send(hub, f"tractbench: {message}", progress(quiet))


def _asked() -> bool:
    """Return the user's answer.

    Raises:
        ConfigError: there is nobody to ask.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError("nothing was sent, as there is no terminal to ask on; --yes sends without asking")
    return typer.confirm("Send them?", default=False, err=True)


def _described(hub: Hub, upload: Upload, commit: str | None) -> dict[str, object]:
    """Return the fields that each --json has."""
    return {
        "repository": upload.name,
        "kind": upload.kind,
        "endpoint": hub.endpoint,
        "visibility": upload.visibility,
        "new": upload.before is None,
        "files": upload.files,
        "bytes": upload.size,
        "commit": commit,
    }


def _address(hub: Hub, upload: Upload) -> str:
    return f"{hub.endpoint}/{'datasets/' if upload.kind == 'dataset' else ''}{upload.name}"


def _amount(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
