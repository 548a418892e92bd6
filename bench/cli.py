"""The command line: parses, calls one function a verb, prints. torch is imported inside the verbs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tractbench.errors import ConfigError, RunFailedError, TractbenchError, choose

if TYPE_CHECKING:
    from tractbench.config import RunConfig
    from tractbench.progress import Progress
    from tractbench.results.record import Record

app = typer.Typer(
    name="tractbench",
    help="Reproducibility benchmark for few-step diffusion distillation.\n\n"
    "Try: tractbench run --method tract --dataset digits --nfe 1, then: tractbench report --format html",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
teacher_app = typer.Typer(help="Teachers: the networks that are distilled.", no_args_is_help=True)
features_app = typer.Typer(
    help="Feature networks: what Frechet feature distances are measured in.", no_args_is_help=True
)
app.add_typer(teacher_app, name="teacher")
app.add_typer(features_app, name="features")


FORMATS = ("html", "latex", "markdown", "csv")
LISTINGS = ("methods", "datasets", "runs")

Runs = Annotated[
    Path, typer.Option(envvar="TRACTBENCH_HOME", help="Folder of all results.", file_okay=True, show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no table.")]


@app.command()
def run(
    method: Annotated[str | None, typer.Option(help="Method, such as tract or ddim (see 'list methods').")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, such as digits (see 'list datasets').")] = None,
    nfe: Annotated[int | None, typer.Option(help="Network evaluations per image when sampling.")] = None,
    tier: Annotated[str | None, typer.Option(help="Preset of the data set: how much evidence the run gives.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Steps before, between and after phases: 1024,32,1.")] = None,
    budget: Annotated[str | None, typer.Option(help="Training images over all phases: 512K, 96M (K = 1,024).")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed.")] = None,
    sampling_seeds: Annotated[str | None, typer.Option(help="Sampling seeds: 0,1,2 or 0-4.")] = None,
    samples: Annotated[int | None, typer.Option(help="Images for each sampling seed.")] = None,
    mu_s: Annotated[float | None, typer.Option(help="Self-teacher momentum.")] = None,
    mu_i: Annotated[float | None, typer.Option(help="Inference momentum; else from the EMA residual.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in one training step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    process: Annotated[str | None, typer.Option(help="Diffusion process of the teacher.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher: a shipped name or the path of a card (.toml).")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other setting (see 'list methods --verbose'); repeatable."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; flags win over it.")] = None,
    runs: Runs = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Run again although the result is there.")] = False,
    sample_batch: Annotated[
        int | None, typer.Option(min=1, help="Images held together while sampling; never changes a result.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a teacher with a method, sample the student, score it and record everything.

    The same command again finds the result done; an interrupted one goes on where it stopped.

    Examples:
      tractbench run --method tract --dataset digits --nfe 1
      tractbench run --method ddim --dataset digits --nfe 4 --json
      tractbench run --method tract --dataset digits --schedule 1024,1 --budget 256K --set loss_weight=uniform
    """
    from tractbench.config import read_config_file, resolve
    from tractbench.console import interrupts, print_outcome
    from tractbench.results.store import Store
    from tractbench.run import Runtime
    from tractbench.run import run as make_run

    flags: dict[str, object] = {
        "method": method, "dataset": dataset, "nfe": nfe, "tier": tier, "schedule": schedule, "budget": budget,
        "seed": seed, "sampling_seeds": sampling_seeds, "samples": samples, "mu_s": mu_s, "mu_i": mu_i,
        "batch": batch, "lr": lr, "process": process, "teacher": teacher,
    }  # fmt: skip
    settings = read_config_file(config) if config else {}
    settings |= {key: value for key, value in flags.items() if value is not None}
    settings |= _parse_settings(setting or [])
    resolved, chosen_method, chosen_dataset = resolve(settings)
    store = Store(runs, create=True)
    progress = _progress(quiet)
    progress.message(_announce(resolved))
    try:
        with interrupts() as stop:
            runtime = Runtime(_device(device), sample_batch, force, stop)
            outcome = make_run(resolved, chosen_method, chosen_dataset, store, progress, runtime)
    except RunFailedError as error:
        if as_json:
            print(json.dumps({"status": "failed", "reason": str(error), "method": resolved.method,
                              "dataset": resolved.dataset, "nfe": resolved.nfe, "tier": resolved.tier}))  # fmt: skip
        raise
    if as_json:
        print(json.dumps(_run_object(outcome.record, outcome.reused, store.root)))
    elif not quiet:
        print_outcome(outcome.record, outcome.reused, str(store.root / outcome.record.folder))


@app.command()
def report(
    output: Annotated[str, typer.Option("--format", help="html, latex, markdown or csv.")] = "html",
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: report.html for html, standard output otherwise]")
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Only this tier.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Make the table method x NFE from all results: mean, spread, seeds, budget, parameters, evaluations.

    Examples:
      tractbench report --format html
      tractbench report --format latex --out table.tex
      tractbench report --format csv | column -s, -t
    """
    from tractbench.files import write_atomic
    from tractbench.reports.render import render
    from tractbench.results.store import Store

    output = choose(output, "format", FORMATS)
    text = render(Store(runs), output, tier=tier, dataset=dataset)
    path = Path("report.html") if out is None and output == "html" else out
    if path is None:
        print(text, end="")
    else:
        write_atomic(path, text)
        print(f"wrote {path}", file=sys.stderr)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, datasets or runs.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Methods: every option with its default.")] = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """List methods with their options, data sets with their tiers, or the runs so far."""
    from tractbench.console import print_table
    from tractbench.listing import list_datasets, list_methods, list_runs

    what = choose(what, "listing", LISTINGS)
    if what == "methods":
        listing = list_methods(verbose)
    elif what == "datasets":
        listing = list_datasets()
    else:
        listing = list_runs(runs)
    if as_json:
        print(json.dumps(listing.objects))
    else:
        print_table(listing.headers, listing.rows)


@teacher_app.command("train")
def teacher_train(
    dataset: Annotated[str, typer.Option(help="Data set to train on.")],
    process: Annotated[str, typer.Option(help="Diffusion process.")] = "vp",
    to: Annotated[Path, typer.Option(help="Folder for the weights and their card.")] = Path("teachers"),
    seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps instead of the recipe's.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a teacher by its data set's recipe; this is how the shipped ones were made."""
    from tractbench.registry import load_dataset
    from tractbench.teachers.train import train_teacher

    data = load_dataset(dataset)
    with data.computing():
        card = train_teacher(data, process, to, _progress(quiet), seed=seed, steps=steps)
    print(
        f"wrote {to / card.name}.toml; use it with: tractbench run --teacher {to / card.name}.toml ...", file=sys.stderr
    )


@features_app.command("train")
def features_train(
    dataset: Annotated[str, typer.Option(help="Data set to train on.")],
    to: Annotated[Path, typer.Option(help="Folder for the weights and their card.")] = Path("features"),
    seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Train the classifier behind fd_feature; this is how the shipped one was made."""
    from tractbench.datasets.digits import Digits
    from tractbench.evaluation.features import train_classifier
    from tractbench.registry import load_dataset

    data = load_dataset(dataset)
    if not isinstance(data, Digits):
        raise ConfigError(f"data set '{data.name}' has no classifier recipe; only 'digits' has one")
    with data.computing():
        card = train_classifier(data, to, _progress(quiet), seed=seed)
    print(f"wrote {to / card.name}.toml; held-out accuracy {card.accuracy:.1%}", file=sys.stderr)


def _progress(quiet: bool) -> Progress:
    from tractbench.console import TerminalProgress
    from tractbench.progress import Progress

    return Progress() if quiet else TerminalProgress()


def _parse_settings(pairs: list[str]) -> dict[str, object]:
    """Parse KEY=VALUE pairs; a value is TOML if it reads as such (1e-3, true, [1024, 1]), else text."""
    import tomllib

    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: it has no '='; give KEY=VALUE, such as loss_weight=uniform")
        try:
            settings[key.strip().replace("-", "_")] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip().replace("-", "_")] = value.strip()
    return settings


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    name = choose(name, "device", ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda': torch sees no GPU here; use --device cpu")
    return name


def _announce(config: RunConfig) -> str:
    from tractbench.config import format_budget

    steps = " -> ".join(map(str, config.schedule))
    training = f"schedule {steps}, budget {format_budget(config.budget)}, batch {config.batch}, " if steps else ""
    options = "".join(f", {key} {value}" for key, value in config.options.items())
    return (
        f"{config.method} on {config.dataset} ({config.tier}), {config.nfe} NFE: {training}seed {config.seed}, "
        f"teacher {config.teacher}, {len(config.sampling_seeds)} x {config.samples} samples{options}"
    )


def _run_object(record: Record, reused: bool, root: Path) -> dict[str, Any]:
    config = record.config
    return {
        "status": record.status,
        "reused": reused,
        "identity": record.identity,
        "method": config.method,
        "dataset": config.dataset,
        "nfe": config.nfe,
        "nfe_spent": record.nfe_spent,
        "tier": config.tier,
        "schedule": list(config.schedule),
        "run_dir": str(root / record.folder),
        "seconds": record.seconds.total,
        "metrics": {name: metric.model_dump(mode="json") for name, metric in record.metrics.items()},
        "floors": record.floors,
    }


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
