"""Sets of samples that others made, read in pieces: PNG files in folders, zips and tars, and arrays; one or shards."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from torch import Tensor

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.array_files import Array, npy_arrays, npz_arrays, torch_arrays
from tractbench.evaluation.arrays import array_set, choose_array
from tractbench.evaluation.png import files_below, open_folder, open_tar, open_zip
from tractbench.evaluation.sample_set import Layout, Reading, SampleSet, damaged
from tractbench.io.archives import UNREADABLE, by_name, is_web_page, put_on_purpose

ARRAYS: Mapping[str, tuple[Callable[[Path], list[Array]], Layout]] = {
    ".npz": (npz_arrays, "nhwc"), ".npy": (npy_arrays, "nhwc"),
    ".pt": (torch_arrays, "nchw"), ".pth": (torch_arrays, "nchw")
}  # fmt: skip
"""How files of arrays are looked at, and the layout that they usually have."""

PICTURES: Mapping[str, Callable[[Path], SampleSet]] = {
    ".zip": open_zip, ".tar": open_tar, ".gz": open_tar, ".tgz": open_tar, ".bz2": open_tar, ".xz": open_tar
}  # fmt: skip

KINDS = "a folder, zip or tar of PNG files, or .npz, .npy or .pt files"
PLAIN = Reading()


def open_samples(where: Path | Sequence[Path], reading: Reading = PLAIN) -> SampleSet:
    """Look at a set of samples without reading it whole.

    A folder (with its subfolders), a zip or a tar of PNG files, in the order of their names; an ``.npy``, ``.npz`` or
    ``.pt`` file with one array of images ``[N, H, W, C]`` or ``[N, C, H, W]``, of grey levels or of floats in [-1, 1].
    Several of one kind, a pattern such as ``samples/*.npz``, or a folder of them, are shards of one set, in the order
    that is given, else that of their names. Nothing in a file is unpickled.

    Args:
        where: the files.
        reading: what the user says where a file can be read in more than one way.

    Raises:
        ConfigError: there is nothing there, it is of no such kind, or it may be read in several ways; the message says
            what to give.
        DamagedFileError: a file cannot be read; reading it later may raise this too.
    """
    given = [where] if isinstance(where, Path) else list(where)
    files = [file for one in given for file in _shards(one)]
    first = files[0]
    source = str(first) if len(files) == 1 else f"{first} and {len(files) - 1} more files"
    if all(file.suffix.lower() in ARRAYS for file in files):
        look, usual = ARRAYS[first.suffix.lower()]
        chosen = [choose_array(found, reading, usual) for file in files if (found := _looked_at(file, look, usual))]
        found_set = array_set(chosen, reading, usual, source)
    else:
        for option, said in (("--key", reading.key), ("--layout", reading.layout)):
            if said is not None:
                raise ConfigError(f"{option} {said}: {source} is no file of arrays; leave it out")
        found_set = _joined([_open_pictures(file) for file in files], source)
    return found_set


def _looked_at(file: Path, look: Callable[[Path], list[Array]], usual: Layout) -> list[Array]:
    own = ARRAYS[file.suffix.lower()][0]
    if own is not look:
        raise ConfigError(f"samples {file}: the first file is of another kind; give shards of one set")
    try:
        found = own(file)
    except (*UNREADABLE, DamagedFileError) as error:
        _refuse_page(file)
        if isinstance(error, DamagedFileError):
            raise
        raise damaged(file, error) from error
    if not found:
        example = "arr_0 [N, H, W, C]" if usual == "nhwc" else "one tensor [N, C, H, W]"
        raise ConfigError(f"{file} holds no array; save the samples as {example}")
    return found


def _open_pictures(path: Path) -> SampleSet:
    try:
        return open_folder(path) if path.is_dir() else PICTURES[path.suffix.lower()](path)
    except (*UNREADABLE, DamagedFileError) as error:
        _refuse_page(path)
        if isinstance(error, DamagedFileError):
            raise
        raise damaged(path, error) from error


def _refuse_page(path: Path) -> None:
    """Say of what is no file of samples that it is what a server sent instead."""
    if is_web_page(path):
        raise DamagedFileError(f"{path} is a web page, not samples; fetch it again")


def _shards(path: Path) -> list[Path]:
    """Return the files that a path or a pattern stands for."""
    if path.is_dir():
        files = [name for name in files_below(path) if put_on_purpose(name)]
        kinds = {Path(name).suffix.lower() for name in files} & {*ARRAYS, *PICTURES}
        if not kinds or any(name.lower().endswith(".png") for name in files):
            return [path]
        if len(kinds) > 1:
            raise ConfigError(f"samples {path} holds files of several kinds ({', '.join(sorted(kinds))}); give one")
        return [path / name for name in sorted(files, key=by_name) if Path(name).suffix.lower() in kinds]
    found = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path)))]  # noqa: PTH207 - any pattern
    if not found:
        raise ConfigError(f"no samples at {path}; give {KINDS}")
    for file in found:
        if not file.is_dir() and file.suffix.lower() not in {*ARRAYS, *PICTURES}:
            raise ConfigError(f"samples {file}: give {KINDS}")
    return found


def _joined(sets: Sequence[SampleSet], source: str) -> SampleSet:
    """Make one set of several shards."""
    first = sets[0]
    if len(sets) == 1:
        return first
    for other in sets:
        if other.shape != first.shape:
            raise ConfigError(
                f"{other.source} holds images of another size than {first.source}; give shards of one set"
            )

    def read() -> Iterator[Tensor]:
        yield from chain.from_iterable(one.read() for one in sets)

    notes = tuple(f"{one.source}: {note}" for one in sets for note in one.notes)
    return SampleSet(source, sum(one.count for one in sets), first.shape, False, read, notes)
