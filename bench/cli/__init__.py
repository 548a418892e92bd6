"""The command line: parses, calls one function a verb, prints. torch is imported inside the verbs."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from tractbench.cli.check import check
from tractbench.cli.data import data_app
from tractbench.cli.demo import demo
from tractbench.cli.doctor import doctor
from tractbench.cli.ending import name_is_too_long, tell
from tractbench.cli.evaluate import evaluate
from tractbench.cli.explain import explain
from tractbench.cli.export import export
from tractbench.cli.features import features_app
from tractbench.cli.interrupts import EXIT_CODES, Terminated, termination
from tractbench.cli.list import list_
from tractbench.cli.new import new
from tractbench.cli.open import open_
from tractbench.cli.output import OutputError, prepare_streams
from tractbench.cli.plan import plan
from tractbench.cli.profile import profile
from tractbench.cli.pull import pull_app
from tractbench.cli.push import push_app
from tractbench.cli.regress import regress
from tractbench.cli.report import report
from tractbench.cli.run import run
from tractbench.cli.store import store_app
from tractbench.cli.suite import suite
from tractbench.cli.teacher import teacher_app
from tractbench.cli.verify import verify
from tractbench.errors import TractbenchError

app = typer.Typer(
    name="tractbench",
    help="Reproducibility benchmark for few-step diffusion distillation.\n\n"
    "Try: tractbench run --method tract --dataset digits --nfe 1, then: tractbench report --format html",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"tractbench {version('tractbench')}")
        raise typer.Exit


@app.callback()
def _program(
    version_: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(run)
app.command()(suite)
app.command()(plan)
app.command()(profile)
app.command()(evaluate)
app.command()(demo)
app.command()(report)
app.command(name="open")(open_)
app.command()(verify)
app.command()(explain)
app.command()(export)
app.command()(regress)
app.command(name="list")(list_)
app.command()(doctor)
app.command()(check)
app.command()(new)
app.add_typer(store_app, name="store")
app.add_typer(push_app, name="push")
app.add_typer(pull_app, name="pull")
app.add_typer(data_app, name="data")
app.add_typer(teacher_app, name="teacher")
app.add_typer(features_app, name="features")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    prepare_streams()
    ended: list[Terminated] = []
    try:
        with termination(ended):
            result = app(standalone_mode=False)
            if result == EXIT_CODES["SIGINT"]:  # what typer makes of every interrupt, without a word
                raise KeyboardInterrupt
            if sys.stdout is not None:
                sys.stdout.flush()  # what is held back may fail too, and Python's own last flush would say so at length
    except (Exception, KeyboardInterrupt) as error:
        known = TractbenchError | KeyboardInterrupt | typer.Abort | OutputError
        if not (isinstance(error, known) or name_is_too_long(error) or hasattr(error, "format_message")):
            raise
        sys.exit(tell(ended[0] if ended and isinstance(error, KeyboardInterrupt | typer.Abort) else error))
    sys.exit(result if isinstance(result, int) else 0)
