"""The command line: parses, calls one function a verb, prints. torch is imported inside the verbs."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from tractbench.cli.data import data_app
from tractbench.cli.evaluate import evaluate
from tractbench.cli.explain import explain
from tractbench.cli.plan import doctor, plan
from tractbench.cli.report import list_, report
from tractbench.cli.run import run
from tractbench.cli.store import store_app
from tractbench.cli.suite import suite
from tractbench.cli.teacher import features_app, teacher_app
from tractbench.cli.verify import verify
from tractbench.errors import TractbenchError

app = typer.Typer(
    name="tractbench",
    help="Reproducibility benchmark for few-step diffusion distillation.\n\n"
    "Try: tractbench run --method tract --dataset digits --nfe 1, then: tractbench report --format html",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(suite)
app.command()(plan)
app.command()(evaluate)
app.command()(report)
app.command()(verify)
app.command()(explain)
app.command(name="list")(list_)
app.command()(doctor)
app.add_typer(store_app, name="store")
app.add_typer(data_app, name="data")
app.add_typer(teacher_app, name="teacher")
app.add_typer(features_app, name="features")


def _stop(message: str, code: int) -> NoReturn:
    print(f"tractbench: {message}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    try:
        result = app(standalone_mode=False)
    except TractbenchError as error:
        _stop(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _stop("stopped; what was finished is kept, nothing is left half-written", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        describe = getattr(error, "format_message", None)  # usage errors of typer, whichever click it carries
        if describe is None:
            raise
        text = " ".join(str(describe()).split())
        if not text:
            sys.exit(2)  # help was shown
        _stop(f"{text.rstrip('.')}; see 'tractbench --help'", 2)
    sys.exit(result if isinstance(result, int) else 0)
