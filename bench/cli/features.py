"""``tractbench features``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Quiet, progress, with_plugins

features_app = typer.Typer(
    help="Feature networks: what Frechet feature distances are measured in.", no_args_is_help=True
)


@features_app.command("train")
@with_plugins
def features_train(
    dataset: Annotated[str, typer.Option(help="Data set to train on.")],
    to: Annotated[Path, typer.Option(help="Folder for the weights and their card.")] = Path("features"),
    seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Train the classifier behind fd_feature; this is how the shipped one was made."""
    from tractbench.evaluation.extractors.classifier import train_classifier
    from tractbench.registry import load_dataset

    data = load_dataset(dataset)
    with data.computing():
        card = train_classifier(data, to, progress(quiet), seed=seed)
    print(f"wrote {to / card.name}.toml; held-out accuracy {card.accuracy:.1%}", file=sys.stderr)
