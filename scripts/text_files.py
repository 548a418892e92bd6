"""Mend text files: no blanks at ends of lines, one line end at the end, no CRLF; refuse marks of unfinished merges.

    python scripts/text_files.py FILE...

Exit status 1 if a file was changed or has such a mark, so that a commit stops to be looked at.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

EXACT = {".safetensors", ".jsonl", ".svg"}
"""Files whose bytes are hashed."""


def mended(text: bytes) -> bytes:
    """Return a file's text with its line ends in order."""
    lines = [line.rstrip(b" \t") for line in text.replace(b"\r\n", b"\n").split(b"\n")]
    return b"\n".join(lines).rstrip(b"\n") + b"\n" if text.strip() else b""


def main(paths: list[str]) -> int:
    """Mend files and return the exit status."""
    status = 0
    for path in map(Path, paths):
        if path.suffix in EXACT:
            continue
        before = path.read_bytes()
        if re.search(rb"^(<{7}|>{7}) ", before, re.MULTILINE):
            print(f"{path}: marks of a merge")
            status = 1
        if (after := mended(before)) != before:
            path.write_bytes(after)
            print(f"{path}: mended")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
