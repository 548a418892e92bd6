"""Zips of PNGs with their labels in ``dataset.json``, as EDM's tools write them and people's machines rewrite them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tractbench.datasets.formats.prepared import Pieces, Source, stamp
from tractbench.errors import DamagedFileError
from tractbench.io.archives import UNREADABLE, reason, split_litter, zip_members

PIECE = 256
"""Images read together."""

LISTING = "dataset.json"
NO_LABEL = -1

UNREADABLE_IMAGE = (*UNREADABLE, Image.DecompressionBombError)
"""What is raised where an image in a file is damaged."""


def edm_zip_source(path: Path, size: int, *, labels_needed: bool) -> Source:
    """Return the images of a zip, in the order of their names.

    Args:
        path: the zip; ``dataset.json`` may lie in a folder of it, of which the names in it then are.
        size: height and width of the images.
        labels_needed: a zip without labels is refused; else it is taken, and its images have none.

    Raises:
        ConfigError: the zip is encrypted or compressed in a way that Python cannot read.
        DamagedFileError: it is no such zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = zip_members(archive, path)
            files, litter = split_litter(members)
            names = [name for name in files if name.lower().endswith(".png")]
            listings = [name for name in files if name.rpartition("/")[2] == LISTING]
            labels = _labels(archive.read(members[listings[0]]), listings[0]) if listings else None
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} is not a zip of PNGs with {LISTING} ({reason(error)})") from error
    if labels is None and labels_needed:
        raise DamagedFileError(f"{path} is not a zip of PNGs with {LISTING} ({LISTING} has no labels)")
    missing = [name for name in names if labels is not None and name not in labels]
    if missing:
        raise DamagedFileError(f"{path} is not a zip of PNGs with {LISTING} ({LISTING} has no label of {missing[0]})")

    def read(start: int) -> Pieces:
        with zipfile.ZipFile(path) as archive:
            members = zip_members(archive, path)
            for low in range(start, len(names), PIECE):
                piece = names[low : low + PIECE]
                found = [NO_LABEL if labels is None else labels[name] for name in piece]
                yield np.stack([_member(archive, members[name], size) for name in piece]), np.array(found, np.int32)

    name = "zip of PNGs, filter of its maker" + ", without labels" * (labels is None)
    notes = (f"{len(litter):,} hidden files, passed over: {litter[0]}",) if litter else ()
    return Source(name, len(names), read, stamp([path]), labelled=labels is not None, notes=notes)


def _labels(content: bytes, listing: str) -> dict[str, int] | None:
    """Return each image's label by its name in the zip, None where the listing has none."""
    folder = listing.removesuffix(LISTING)
    listed = json.loads(content.decode("utf-8-sig"))["labels"]
    if listed is None:
        return None
    return {folder + str(name).replace("\\", "/"): int(label) for name, label in listed}


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> NDArray[np.uint8]:
    """Return a PNG as ``[3, size, size]``; any other size or mode is a sign of another data set."""
    where = f"{archive.filename}: {info.filename}"
    try:
        with Image.open(io.BytesIO(archive.read(info))) as image:
            if image.mode == "RGB" and image.size == (size, size):
                pixels: NDArray[Any] = np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
                return np.ascontiguousarray(pixels)
            wrong = f"{image.width}x{image.height}, {size}x{size}" if image.mode == "RGB" else f"{image.mode}, RGB"
    except UNREADABLE_IMAGE as error:
        raise DamagedFileError(f"{where} is not an image ({reason(error)}); fetch it again") from error
    raise DamagedFileError(f"{where} is {wrong} is needed; convert the images first")
