"""``tractbench teacher``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tractbench.cli import completion
from tractbench.cli.options import Json, Quiet, chosen_device, progress, with_plugins
from tractbench.cli.output import to_json
from tractbench.cli.teacher_score import teacher_score
from tractbench.errors import ConfigError, DamagedFileError, choose

if TYPE_CHECKING:
    from tractbench.teachers.card import TeacherCard
    from tractbench.teachers.published import Published, Trial

teacher_app = typer.Typer(help="Teachers: the networks that are distilled.", no_args_is_help=True)
teacher_app.command("score")(teacher_score)


@teacher_app.command("list")
@with_plugins
def teacher_list(as_json: Json = False) -> None:
    """List the teachers on this machine and those that others publish."""
    from tractbench.cli.console import print_table
    from tractbench.teachers.card import SHIPPED
    from tractbench.teachers.published import local_cards, published_teachers

    rows: list[dict[str, Any]] = []
    local = local_cards(_warn)
    for card, folder in local.values():
        where = "shipped" if folder == SHIPPED else "imported"
        fid = card.origin.fid if card.origin else None
        rows.append(_summary(card) | {"where": where, "fid": fid, "licence": card.licence})
    for name, published in published_teachers().items():
        if name not in local:
            rows.append(_summary(published) | {"where": "-", "fid": published.fid, "licence": published.licence})
    if as_json:
        print(to_json(rows))
    else:
        headers = {
            "Teacher": "",
            "Data set": "",
            "Process": "",
            "Params": "right",
            "Here": "",
            "FID": "right",
            "Licence": "",
        }
        cells = [
            [row["name"], row["dataset"], row["process"], f"{row['parameters'] / 1e6:.1f}M", row["where"],
             "-" if row["fid"] is None else str(row["fid"]), row["licence"].split(",")[0].split(" (")[0]]
            for row in rows
        ]  # fmt: skip
        print_table(headers, cells)
        print("FID: as its authors report it. 'teacher info NAME' shows the rest.")


def _warn(text: str) -> None:
    print(f"tractbench: {text}", file=sys.stderr)


def _summary(card: TeacherCard | Published) -> dict[str, Any]:
    fields = ("name", "dataset", "process", "network", "parameters")
    return {field: getattr(card, field) for field in fields}


@teacher_app.command("info")
@with_plugins
def teacher_info(
    name: Annotated[str, typer.Argument(help="Teacher, see 'teacher list'.")], as_json: Json = False
) -> None:
    """Show all that is known of a teacher: network, licence, hashes, where it comes from."""
    from tractbench.teachers.card import TeacherCard, imported_folder, read_card, to_toml
    from tractbench.teachers.published import published_teachers

    card: TeacherCard | Published
    published = published_teachers()
    if name in published and not (imported_folder() / f"{name}.toml").exists():
        card = published[name]
    else:
        card, _ = read_card(name, TeacherCard)
    print(card.model_dump_json() if as_json else to_toml(card), end="\n" if as_json else "")


@teacher_app.command("import")
@with_plugins
def teacher_import(
    file: Annotated[
        Path, typer.Argument(help="EDM pickle, Google flax checkpoint, PyTorch state dict or safetensors.")
    ],
    card: Annotated[str | None, typer.Option(help="Published teacher that the file is, see 'teacher list'.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the imported teacher.", show_default="the card's or the file's")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set it was trained on, without --card.", autocompletion=completion.dataset)
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, without --card.")] = "unknown",
    key: Annotated[
        str | None,
        typer.Option(help="Which of several weights in the file.", show_default="their average, if one is there"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a checkpoint without executing anything in it, check it and keep it as safetensors with a card.

    Examples:
      tractbench teacher import cifar_original --card google-cifar10
      tractbench teacher import my-edm.pkl --dataset cifar10 --name mine
    """
    from tractbench.teachers.published import import_teacher, published_teacher

    published = published_teacher(card) if card else None
    imported, trial = import_teacher(file, published, name=name, dataset=dataset, licence=licence, key=key)
    _print_imported(imported, trial, first_use=bool(published and published.sha256 is None), as_json=as_json)


def _print_imported(card: TeacherCard, trial: Trial, *, first_use: bool, as_json: bool) -> None:
    from tractbench.teachers.card import imported_folder

    path = imported_folder() / f"{card.name}.toml"
    assert card.origin is not None
    if as_json:
        print(to_json({
            "name": card.name, "card": str(path), "sha256": card.sha256, "source_sha256": card.origin.sha256,
            "format": card.origin.format, "network": card.network, "parameters": card.parameters,
            "taken": card.origin.taken,
            "trial_shape": trial.shape, "trial_mean_absolute": trial.mean_absolute,
        }))  # fmt: skip
        return
    print(f"{card.name}: {card.network}, {card.parameters:,} parameters, read from {card.origin.format}")
    if card.origin.taken:
        print(f"taken: {card.origin.taken}; --key NAME takes others")
    print(f"source sha256 {card.origin.sha256}")
    if first_use:
        print("its authors publish no hash: this one is recorded, and every later file of that name must have it")
    print(f"weights sha256 {card.sha256}")
    print(f"tried once: images of shape {trial.shape}, mean absolute value {trial.mean_absolute:.4f}")
    print(
        f"wrote {path}; use it with: tractbench run --teacher {card.name} ...\n"
        f"does it score what its authors report? tractbench teacher score {card.name} "
        "(--samples 1000 for a first look)",
        file=sys.stderr,
    )


@teacher_app.command("download")
@with_plugins
def teacher_download(
    name: Annotated[str, typer.Argument(help="Published teacher, see 'teacher list'.")],
    url: Annotated[str | None, typer.Option(help="Mirror to fetch the file from instead.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the downloaded file after it was imported.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a published teacher, check it and import it; an interrupted download goes on where it stopped.

    Examples:
      tractbench teacher download google-cifar10
      tractbench teacher download edm-cifar10-uncond-ve --url http://mirror.example/edm-cifar10-32x32-uncond-ve.pkl
    """
    from tractbench.io.cache import cache_dir
    from tractbench.io.download import download
    from tractbench.teachers.published import expected_hash, import_teacher, published_teacher

    published = published_teacher(name)
    source = url or published.url
    if source is None:
        raise ConfigError(f"teacher '{name}': {published.note}; then: tractbench teacher import FILE --card {name}")
    print(f"{name}: {source}\nlicence of the weights: {published.licence}", file=sys.stderr)
    path = cache_dir() / "downloads" / (published.url or source).rsplit("/", 1)[-1]
    expected = expected_hash(published)
    download(source, path, expected, progress(quiet))
    try:
        card, trial = import_teacher(path, published)
    except DamagedFileError as error:
        if expected is None:  # a page that says sorry, say; kept, it would be taken for the file ever after
            path.unlink(missing_ok=True)
            raise DamagedFileError(f"{error}; what came from {source} was not kept") from error
        raise
    if not keep:
        path.unlink()
    _print_imported(card, trial, first_use=expected is None, as_json=as_json)


@teacher_app.command("verify")
@with_plugins
def teacher_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Teachers.", show_default="all on this machine")] = None,
    as_json: Json = False,
) -> None:
    """Read weights again, compare their hashes with the cards, and try every teacher once."""
    from tractbench.cli.console import print_table
    from tractbench.teachers.card import TeacherCard, read_card
    from tractbench.teachers.published import local_cards, try_teacher

    found = {name: read_card(name, TeacherCard) for name in names} if names else local_cards(_warn)
    rows: list[dict[str, Any]] = []
    for name, (card, folder) in found.items():
        trial = try_teacher(card, folder)
        rows.append({"name": name, "sha256": card.sha256, "parameters": card.parameters,
                     "trial_mean_absolute": trial.mean_absolute})  # fmt: skip
    if as_json:
        print(to_json(rows))
    else:
        print_table(
            {"Teacher": "", "sha256": "", "Parameters": "right", "Mean absolute value of a trial": "right"},
            [[r["name"], r["sha256"][:12], f"{r['parameters']:,}", f"{r['trial_mean_absolute']:.4f}"] for r in rows],
        )


@teacher_app.command("train")
@with_plugins
def teacher_train(
    dataset: Annotated[str, typer.Option(help="Data set to train on.", autocompletion=completion.dataset)],
    process: Annotated[str | None, typer.Option(help="Diffusion process.", show_default="the data set's first")] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the weights and their card.", show_default="teachers, or the cache for --tier smoke"
        ),
    ] = None,
    tier: Annotated[
        str, typer.Option(help="full, or smoke: a few steps of a tiny network, for 'run --tier smoke' to find.")
    ] = "full",
    seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps instead of the recipe's.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a teacher by its data set's recipe; this is how the shipped ones were made."""
    from tractbench.datasets.base import FULL
    from tractbench.registry import load_dataset
    from tractbench.teachers.card import imported_folder
    from tractbench.teachers.train import train_teacher
    from tractbench.training.numerics import precision

    data = load_dataset(dataset)
    tier = choose(tier, "tier", dict.fromkeys((FULL, *data.workload.recipes)))
    folder = to or (imported_folder() if tier != FULL else Path("teachers"))
    where = chosen_device(device)
    with data.computing(), precision("fp32", where):
        card = train_teacher(
            data, process or data.workload.processes[0], folder, progress(quiet),
            seed=seed, steps=steps, tier=tier, device=where,
        )  # fmt: skip
    name = card.name if tier != FULL and to is None else f"{folder / card.name}.toml"
    print(f"wrote {folder / card.name}.toml; use it with: tractbench run --teacher {name} ...", file=sys.stderr)
