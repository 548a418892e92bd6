"""Sets of samples that others made, read in pieces: folders and zips of PNG files, npz files, tensor files."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tractbench.errors import ConfigError
from tractbench.evaluation.arrays import open_npz, open_tensor
from tractbench.evaluation.png import open_folder, open_zip
from tractbench.evaluation.sample_set import SampleSet, damaged


def open_samples(path: Path) -> SampleSet:
    """Look at a set of samples without reading it whole.

    A folder (with its subfolders) or a ``.zip`` of PNG files, in the order of their names; an ``.npz`` file whose
    ``arr_0``, or else its first array, is ``[N, H, W, C]``; a ``.pt`` or ``.pth`` file of one tensor ``[N, C, H, W]``.
    Arrays are uint8 grey levels or floats in [-1, 1]. Nothing in a file is unpickled.

    Raises:
        ConfigError: there is nothing there, or it is of no such kind; the message says what to give.
        DamagedFileError: the file cannot be read; reading it later may raise this too.
    """
    if path.is_dir():
        return open_folder(path)
    if not path.exists():
        raise ConfigError(f"no samples at {path}; give a folder or zip of PNG files, an .npz or a .pt file")
    kinds = {".zip": open_zip, ".npz": open_npz, ".pt": open_tensor, ".pth": open_tensor}
    if path.suffix.lower() not in kinds:
        raise ConfigError(f"samples {path}: give a folder or zip of PNG files, an .npz or a .pt file")
    try:
        return kinds[path.suffix.lower()](path)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise damaged(path, error) from error
