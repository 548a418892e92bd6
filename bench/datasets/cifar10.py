"""CIFAR-10 (Krizhevsky 2009) from the files that its author publishes."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tractbench.datasets.formats.edm_zip import edm_zip_source
from tractbench.datasets.formats.files import FileDataset
from tractbench.datasets.formats.prepared import Pieces, Source, stamp
from tractbench.datasets.workload import WORKLOADS
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.io.archives import UNREADABLE, is_web_page, reason
from tractbench.io.files import file_sha256
from tractbench.io.pickles import Call, Inert, Known, NumpyType, TableUnpickler, encode

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
FOLDER = "cifar-10-batches-py"
PIXELS = 3 * 32 * 32


class CIFAR10(FileDataset):
    """32x32 RGB, 50,000 training and 10,000 test images; ``cifar10:conditional`` also uses its ten classes."""

    name: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "CIFAR-10, 50,000 images of 32x32; cifar10:conditional uses its 10 classes"
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    label_count: ClassVar[int] = 10
    train_count: ClassVar[int] = 50_000
    held_out_count: ClassVar[int] = 10_000
    download_url: ClassVar[str | None] = URL
    download_sha256: ClassVar[str | None] = SHA256
    workload_file: ClassVar[Path] = WORKLOADS / "cifar10.toml"

    def __init__(self, argument: str | None = None) -> None:
        if argument not in (None, "conditional"):
            raise ConfigError(f"cifar10:{argument}: there is cifar10 and cifar10:conditional")
        if argument:
            self.name = f"cifar10:{argument}"  # type: ignore[misc]
            self.classes = self.label_count  # type: ignore[misc]
            self.workload_file = WORKLOADS / "cifar10-conditional.toml"  # type: ignore[misc]

    @property
    def data_name(self) -> str:
        """Both variants have the same images."""
        return "cifar10"

    def sources(self, path: Path) -> dict[str, Source]:
        """Return the splits of the tar file, of the folder in it, of one that holds that folder, or of EDM's zip."""
        if _is_zip(path):
            return {"train": edm_zip_source(path, self.shape[1], labels_needed=False)}
        batches = {"train": [f"data_batch_{i}" for i in range(1, 6)], "held_out": ["test_batch"]}
        return {split: _source(path, names) for split, names in batches.items()}

    def deviation(self, path: Path) -> str | None:
        """Compare a tar file's sha256, or the batches' MD5 that torchvision knows, with the published ones."""
        if _is_zip(path):
            return "pixels of a zip of PNGs, of which no hash is published"
        if path.is_file():
            found = file_sha256(path)
            page = ", it is a web page" * is_web_page(path)
            return None if found == SHA256 else f"sha256 {found[:12]}, published {SHA256[:12]}{page}"
        from torchvision.datasets import CIFAR10 as Published

        known = dict(Published.train_list + Published.test_list)
        wrong = [
            name for name, content in _contents(path, list(known))
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != known[name]
        ]  # fmt: skip
        return f"MD5 of {', '.join(wrong)} is not the published one" if wrong else None


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _source(path: Path, names: list[str]) -> Source:
    files = [path] if path.is_file() else [_folder(path) / name for name in names]
    return Source("CIFAR-10 python batches", None, lambda start: _read(path, names, start), stamp(files))


def _read(path: Path, names: list[str], start: int) -> Pieces:
    """Yield one batch file after another, from image ``start`` on."""
    seen = 0
    for name, content in _contents(path, names):
        images, labels = _parse(content, name)
        first = max(0, start - seen)
        seen += len(images)
        if first < len(images):
            yield images[first:], labels[first:]


def _folder(path: Path) -> Path:
    return path / FOLDER if (path / FOLDER).is_dir() else path


def _contents(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    folder = _folder(path)
    if folder.is_dir():
        for name in names:
            try:
                yield name, (folder / name).read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"cannot read {folder / name} ({error.strerror}); give cifar-10-python.tar.gz or its folder"
                ) from error
        return
    try:
        with tarfile.open(path) as tar:
            for name in names:
                member = tar.extractfile(f"{FOLDER}/{name}")
                if member is None:
                    raise KeyError(name)
                yield name, member.read()
    except FileNotFoundError as error:
        raise ConfigError(f"no file {path}; fetch {URL}, or add --download") from error
    except UNREADABLE as error:
        why = "it is a web page" if is_web_page(path) else reason(error)
        raise DamagedFileError(f"{path} is not a whole cifar-10-python.tar.gz ({why}); fetch {URL}") from error


class _Pixels:
    """An array of the file: bytes and nothing else."""

    def __init__(self, *ignored: object) -> None:
        self.rows = np.empty((0, PIXELS), np.uint8)

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, (int(), int()) as shape, NumpyType(code="u1" | "uint8"), False, bytes() as raw):
                self.rows = np.frombuffer(raw, np.uint8).reshape(shape)
            case _:
                raise pickle.UnpicklingError("an array that is not one of bytes in rows")


KNOWN: Known = {
    ("numpy.core.multiarray", "_reconstruct"): Call(_Pixels),
    ("numpy._core.multiarray", "_reconstruct"): Call(_Pixels),
    ("numpy", "ndarray"): Inert(),
    ("numpy", "dtype"): NumpyType,
    ("_codecs", "encode"): Call(encode),
}
"""All that a batch may name: the batches are pickles, and a pickle may name any function."""


def _parse(content: bytes, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return a batch file's images ``[N, 3, 32, 32]`` and labels ``[N]``."""
    try:
        batch = TableUnpickler(io.BytesIO(content), KNOWN, encoding="bytes").load()
        data, labels = batch[b"data"].rows, np.asarray(batch[b"labels"], dtype=np.int32)
        if data.shape != (len(labels), PIXELS):
            raise ValueError(f"data of shape {data.shape} for {len(labels)} labels")
    except Exception as error:  # a hostile or damaged file may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        digest = hashlib.sha256(content).hexdigest()[:12]
        raise DamagedFileError(
            f"{name} is not a CIFAR-10 batch that can be trusted: {reason} (sha256 {digest}); fetch {URL}"
        ) from error
    return data.reshape(-1, 3, 32, 32), labels
