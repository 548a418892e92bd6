"""Pictures and loss curves of a store, shown only if they are as they were written."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tractbench.io.files import file_sha256
from tractbench.io.tensors import read_header
from tractbench.results.store import LOSSES_HASH, STUDENT


def intact_picture(path: Path) -> bool:
    """Whether a PNG file is there and has the checksums of its parts that it was written with."""
    try:
        found = path.stat()
    except OSError:
        return False
    return _intact(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1 << 14)
def _intact(path: Path, *_stamp: int) -> bool:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.verify()
    except Exception:  # Pillow raises whatever the bytes lead it to
        return False
    return True


def intact_losses(path: Path) -> bool:
    """Whether a loss curve is there and has the hash that its student's header holds, where it holds one."""
    if not path.is_file():
        return False
    expected = (read_header(path.with_name(STUDENT)) or {}).get(LOSSES_HASH)
    return expected is None or file_sha256(path) == expected
