"""``tractbench data``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli import completion
from tractbench.cli.options import Json, Quiet, progress, with_plugins
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError, DamagedFileError, choose

if TYPE_CHECKING:
    from tractbench.datasets.formats.files import FileDataset
    from tractbench.datasets.formats.prepared import Manifest

data_app = typer.Typer(help="Data sets whose images you bring: convert once, check, look.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(help="Data set, such as cifar10 or imagenet64:npz.", autocompletion=completion.dataset)
]


def _file_dataset(name: str) -> FileDataset:
    from tractbench.registry import load_dataset

    dataset = load_dataset(name)
    if dataset.files is None:
        raise ConfigError(f"data set '{dataset.name}' needs no files; it is always here")
    return dataset.files


@data_app.command("list")
@with_plugins
def data_list(as_json: Json = False) -> None:
    """List the data sets that need files, and what of them is prepared on this machine."""
    from tractbench.cli.components import offers
    from tractbench.cli.console import print_table
    from tractbench.registry import load_dataset

    names = [offer.name for offer in offers("datasets") if not offer.error]
    kinds = [files for name in names if (files := load_dataset(name).files)]
    found = [_file_dataset(name) for d in kinds for name in ([f"{d.name}:{v}" for v in d.variants] or [d.name])]
    if as_json:
        print(to_json([{"name": d.name, "prepared": [m.model_dump() for m in d.manifests()]} for d in found]))
        return
    rows = [[d.name, _splits(d.manifests()) or "-", d.download_url or "your files"] for d in found]
    print_table({"data set": "left", "prepared": "left", "from": "left"}, rows)


def _splits(manifests: list[Manifest]) -> str:
    return ", ".join(f"{m.split} {m.count:,}" + " (deviates)" * bool(m.deviation) for m in manifests)


@data_app.command("info")
@with_plugins
def data_info(name: Name, as_json: Json = False) -> None:
    """Show what a prepared data set was made of, its hashes and where it lies."""
    from tractbench.datasets.formats.prepared import folder_of

    dataset = _file_dataset(name)
    manifests = dataset.manifests()
    if as_json:
        print(to_json({"name": dataset.name, "folder": str(folder_of(dataset.data_name)),
                          "prepared": [m.model_dump() for m in manifests]}))  # fmt: skip
        return
    print(f"{dataset.name}: {dataset.summary}\nfolder {folder_of(dataset.data_name)}")
    for manifest in manifests:
        print(f"{manifest.split}: {manifest.count:,} images of {manifest.shape}, from {manifest.source}")
        print(f"  sha256 {manifest.sha256}")
        for note in manifest.notes:
            print(f"  {note}")
        if manifest.deviation:
            print(f"  DEVIATES: {manifest.deviation}; it never stands for {dataset.name}")
    if not manifests:
        print("nothing is prepared")


@data_app.command("prepare")
@with_plugins
def data_prepare(
    name: Name,
    path: Annotated[Path | None, typer.Argument(help="The files: an archive or a folder, see 'data list'.")] = None,
    fetch: Annotated[bool, typer.Option("--download", help="Fetch the files first, where that is allowed.")] = False,
    url: Annotated[str | None, typer.Option(help="Mirror to fetch them from instead.")] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", help="Who reduced the pixels: 'NAME --filter F' is NAME:F.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split, train or held_out; repeatable.", show_default="all")
    ] = None,
    allow_deviation: Annotated[
        bool, typer.Option("--allow-deviation", help="Take other files or counts than the published; marked as such.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Convert again although it is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert a data set's files into one memory-mapped array; an interrupted conversion goes on where it stopped.

    Examples:
      tractbench data prepare cifar10 --download
      tractbench data prepare imagenet64:npz downsampled-imagenet/
      tractbench data prepare imagenet64 ILSVRC2012/      (with train/ and val/)
    """
    from tractbench.datasets.formats.files import SPLITS
    from tractbench.io.cache import cache_dir
    from tractbench.io.download import download

    dataset = _file_dataset(name)
    if filter_ is not None:
        if ":" in name:
            raise ConfigError(f"{name} --filter {filter_}: the name says who reduced the pixels; give one of the two")
        if not dataset.variants:
            raise ConfigError(f"--filter {filter_}: {name} has one source of pixels; leave it out")
        dataset = _file_dataset(f"{name}:{choose(filter_, 'filter', dataset.variants)}")
    splits = [choose(one, "split", SPLITS) for one in split or ()]
    if url and not fetch:
        raise ConfigError(f"--url {url}: it says where --download fetches from; add --download")
    if fetch and path:
        raise ConfigError(f"{path} and --download: give one of the two")
    bar = progress(quiet)
    if fetch:
        source = url or dataset.download_url
        if source is None:
            raise ConfigError(f"{dataset.name}: its files may not be passed on; get them and give their path")
        path = cache_dir() / "downloads" / str(dataset.download_url).rpartition("/")[2]
        bar.message(f"fetching {source}")
        download(source, path, None if allow_deviation else dataset.download_sha256, bar)
    if path is None:
        raise ConfigError(
            f"{dataset.name}: give the path of its files" + ", or --download" * bool(dataset.download_url)
        )
    manifests = dataset.prepare(path, bar, splits=splits, allow_deviation=allow_deviation, force=force)
    if as_json:
        print(to_json([manifest.model_dump() for manifest in manifests]))
    else:
        for manifest in manifests:
            deviates = f", DEVIATES: {manifest.deviation}" if manifest.deviation else ""
            print(
                f"{manifest.split}: {manifest.count:,} images, sha256 {manifest.sha256[:12]}{deviates}", file=sys.stderr
            )


@data_app.command("verify")
@with_plugins
def data_verify(name: Name, as_json: Json = False, quiet: Quiet = False) -> None:
    """Read a prepared data set whole and compare it with its hashes."""
    dataset = _file_dataset(name)
    found = dataset.verify(progress(quiet))
    if not found:
        raise ConfigError(f"{dataset.name} is not prepared; tractbench data prepare {dataset.name} PATH")
    if as_json:
        print(to_json(found))
    damaged = [split for split, good in found.items() if not good]
    if damaged:
        raise DamagedFileError(
            f"{dataset.name} {', '.join(damaged)} has another hash than its manifest; prepare it again with --force"
        )
    if not as_json:
        print(f"{dataset.name}: {', '.join(found)} as prepared")
