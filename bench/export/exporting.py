"""Writes a finished run as a folder that others sample from without tractbench."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tractbench.errors import ConfigError, StoreError, choose
from tractbench.export.card import model_card
from tractbench.export.diffusers_folder import write_diffusers
from tractbench.export.exported import Exported, exported
from tractbench.export.onnx_graph import require_onnx, write_onnx
from tractbench.export.weights import write_safetensors
from tractbench.results.store import GRID, PICTURE, record_text

FORMATS: Mapping[str, Callable[[Exported, Path], None]] = {
    "diffusers": write_diffusers,
    "safetensors": write_safetensors,
    "onnx": write_onnx,
}
"""How each format writes its files into a folder."""

README = "README.md"

RUN = "run.json"
"""The run's record, without its machine's paths: under its usual name the folder would be taken for a run's."""


def export_run(run: Path, form: str, folder: Path, device: str = "cpu") -> Path:
    """Write a finished run as a folder with a model card, whole or not at all.

    Args:
        run: the run's folder.
        form: ``diffusers``, ``safetensors`` or ``onnx``.
        folder: what to make; it must not be there, or be empty.
        device: where a few images are compared with the run's own before anything is written.

    Returns:
        The folder.

    Raises:
        ConfigError: there is no such format, the folder is in use, the run cannot be exported so, a package is missing.
        DamagedFileError: the run's record or weights cannot be read.
        RunFailedError: the exported sampler does not make the run's images.
        StoreError: the folder cannot be written.
    """
    form = check_target(folder, form)
    found = exported(run, device)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            FORMATS[form](found, beside)
            (beside / README).write_text(model_card(found, form), encoding="utf-8")
            (beside / RUN).write_text(record_text(found.record), encoding="utf-8")
            for name in (PICTURE, GRID):
                if (run / name).is_file():
                    shutil.copyfile(run / name, beside / name)
            umask = os.umask(0)
            os.umask(umask)
            beside.chmod(0o777 & ~umask)
            if folder.exists():
                folder.rmdir()  # empty, or it fails
            beside.replace(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        remedy = "make room" if error.errno == errno.ENOSPC else "choose another --out"
        raise StoreError(f"cannot write {folder}: {error.strerror or error}; {remedy}") from error
    return folder


def check_target(folder: Path, form: str) -> str:
    """Return a format's name, after making sure that it can be written and that the folder is free.

    Raises:
        ConfigError: there is no such format, a package is missing for it, or the folder is in use.
    """
    form = choose(form, "format", FORMATS)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is there and not empty; choose another --out, or remove it")
    if form == "onnx":
        require_onnx()
    return form
