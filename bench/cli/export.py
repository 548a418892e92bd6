"""``tractbench export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Device, Json, Quiet, Runs, Tables, chosen_device, run_folder, with_plugins, working
from tractbench.cli.output import to_json


@with_plugins
def export(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run's folder, eight digits of its identity, or a cell TABLE/ROW/NFE."),
    ],
    form: Annotated[str, typer.Option("--format", help="diffusers, safetensors or onnx.")] = "diffusers",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to make.", show_default="the run's name and the format, here"),
    ] = None,
    tables: Tables = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a finished run as a folder that others sample from without tractbench.

    diffusers: DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True) makes the run's images.
    onnx: one graph of the whole sampler, for onnxruntime; of long samplers the network, and what to do with it.
    safetensors: the weights, and in words and numbers what they are.

    Each has a model card (README.md) with the run's scores. A few images are compared with the run's own first.

    Examples:
      tractbench export runs/cells/tract-digits-small-nfe1-seed0-...
      tractbench export 6ac6e1ab --format onnx --out tract-digits-onnx
      tractbench export digits/tract/1 --format safetensors
    """
    from tractbench.export.exporting import check_target, export_run

    where, folder = chosen_device(device), run_folder(run, runs, tables)
    target = out or Path(f"{folder.resolve().name}-{form}")
    form = check_target(target, form)
    with working("comparing images, writing", quiet=quiet or as_json):
        export_run(folder, form, target, where)
    if as_json:
        files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
        print(to_json({"folder": str(target), "format": form, "run": str(folder), "files": files}))
    elif not quiet:
        print(f"{target}: {form}, of {folder}; {target / 'README.md'} says how to sample")
