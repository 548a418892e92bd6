"""``tractbench features``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Json, Quiet, progress, with_plugins
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError, choose

features_app = typer.Typer(
    help="Feature networks: what Frechet feature distances are measured in.", no_args_is_help=True
)


@features_app.command("list")
@with_plugins
def features_list(as_json: Json = False) -> None:
    """Say which published networks there are besides Inception, under which licence, and whether they are here."""
    from tractbench.cli.console import print_table
    from tractbench.evaluation.extractors.vision_transformer import published

    found = published()
    if as_json:
        objects = [
            {"name": name, **asdict(one.weights), "url": one.weights.url, "path": str(one.weights.path),
             "here": one.weights.path.is_file()}
            for name, one in found.items()
        ]  # fmt: skip
        print(to_json(objects))
        return
    rows = [
        [name, one.weights.summary, one.weights.licence, f"{one.weights.size / 1e9:.1f} GB",
         str(one.weights.path) if one.weights.path.is_file() else f"no: tractbench features fetch {name}"]
        for name, one in found.items()
    ]  # fmt: skip
    heads = {"space": "left", "what it is": "left", "licence": "left", "size": "right", "here": "left"}
    print_table(heads, rows)


@features_app.command("fetch")
@with_plugins
def features_fetch(
    names: Annotated[list[str], typer.Argument(help="dinov2, clip (see 'features list').")],
    source: Annotated[
        Path | None, typer.Option("--from", help="A file that was fetched elsewhere, for a machine without network.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch the weights of a feature network, check their sha256 and keep them in the cache.

    Examples:
      tractbench features fetch dinov2 clip
      tractbench features fetch dinov2 --from model.safetensors
    """
    from tractbench.evaluation.extractors.vision_transformer import published

    found = published()
    chosen = [found[choose(name, "feature network", found)] for name in names]
    if source is not None and len(chosen) > 1:
        raise ConfigError(f"--from {source}: one file is of one network; give one name")
    if source is not None and not source.is_file():
        raise ConfigError(f"--from {source}: no such file; give the {chosen[0].weights.file} that was fetched")
    for one in chosen:
        print(f"{one.name}: licence {one.weights.licence}; {one.weights.repository}", file=sys.stderr)
        one.weights.fetch(progress(quiet), source)
        print(one.weights.path)


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
