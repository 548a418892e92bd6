"""``tractbench teacher`` and ``tractbench features``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Quiet, progress
from tractbench.errors import ConfigError

teacher_app = typer.Typer(help="Teachers: the networks that are distilled.", no_args_is_help=True)
features_app = typer.Typer(
    help="Feature networks: what Frechet feature distances are measured in.", no_args_is_help=True
)


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
        card = train_teacher(data, process, to, progress(quiet), seed=seed, steps=steps)
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
        card = train_classifier(data, to, progress(quiet), seed=seed)
    print(f"wrote {to / card.name}.toml; held-out accuracy {card.accuracy:.1%}", file=sys.stderr)
