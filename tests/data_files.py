"""Small data sets in the true formats, made by the formats' own libraries."""

import io
import pickle
import struct
from typing import ClassVar

import numpy as np


def pixels(seed, count, size):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the strings of Python 2, whose interpreter wrote the published files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        head = b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))
        self.write(head + text)
        self.memoize(text)

    dispatch[bytes] = save_string


def python2_pickle(content):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def cifar_files(folder, count=4, names=None):
    """The batches as their author made them: protocol 2, bytes as keys, rows of 3072."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for index, name in enumerate(names or [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = [(index + i) % 10 for i in range(count)]
        batch = {b"data": pixels(index, count, 32).reshape(count, -1), b"labels": labels,
                 b"batch_label": name.encode(), b"filenames": [b"x.png"] * count}  # fmt: skip
        (folder / name).write_bytes(python2_pickle(batch))
    (folder / "batches.meta").write_bytes(python2_pickle({b"label_names": list(b"abcdefghij")}))
    return folder.parent


def npz_files(tmp_path, sizes=(3, 2), names=None):
    folder = tmp_path / "npz"
    folder.mkdir(exist_ok=True)
    for index, size in enumerate(sizes):
        labels = (np.arange(size) * 7 + index) % 1000 + 1
        name = names[index] if names else f"train_data_batch_{index + 1}.npz"
        np.savez(
            folder / name, data=pixels(index, size, 64).reshape(size, -1), labels=labels, mean=np.zeros(3 * 64 * 64)
        )
    return folder
