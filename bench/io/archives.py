"""Zip and tar files as people's machines write them: what is in them that was put there on purpose."""

from __future__ import annotations

import lzma
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from tractbench.errors import ConfigError, DamagedFileError

UNREADABLE = (OSError, ValueError, EOFError, KeyError, IndexError, OverflowError, RuntimeError, SyntaxError,
              struct.error, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError)  # fmt: skip
"""What is raised where an archive, or an array or a picture in it, is damaged."""

_LITTER = frozenset({"__MACOSX", "thumbs.db", "desktop.ini"})
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TORCH_ADVICE = re.compile(
    r"Weights only load failed.*?(?:WeightsUnpickler error: |$)"
    r"| was not an allowed global.*|\s*Check the documentation of torch\.load.*",
    re.DOTALL,
)
"""How torch tells users to load what they should not trust, around what it found."""

_ENCRYPTED = 0x1
_KNOWN = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "xz", 97: "WavPack", 98: "PPMd"}


def reason(error: BaseException, limit: int = 120) -> str:
    """Return what an error says in one short line, without a terminal's escapes."""
    text = _TORCH_ADVICE.sub("", _ESCAPES.sub("", str(error)))
    return " ".join(text.split())[:limit] or type(error).__name__


def is_web_page(path: Path) -> bool:
    """Whether a file is a page that a server sent in place of what was asked for."""
    try:
        with path.open("rb") as handle:
            start = handle.read(512).lstrip().lower()
    except OSError:
        return False
    return start.startswith((b"<!doctype html", b"<html"))


def put_on_purpose(name: str) -> bool:
    """Whether nothing in a path (with ``/``) is hidden or what file managers leave: ``.DS_Store``, ``__MACOSX/``."""
    return not any(part.startswith(".") or part in _LITTER or part.lower() in _LITTER for part in name.split("/"))


def plain_name(name: str) -> str:
    """Return a member's name with ``/`` between folders, whatever Windows wrote, and without ``./`` before it."""
    return name.replace("\\", "/").removeprefix("./")


def by_name(name: str) -> tuple[str, ...]:
    """Sort folder by folder, in the same order on every system."""
    return tuple(name.split("/"))


def split_litter(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return names that were put there on purpose and the others, both in order."""
    kept: list[str] = []
    left: list[str] = []
    for name in sorted(names, key=by_name):
        (kept if put_on_purpose(name) else left).append(name)
    return kept, left


def zip_members(archive: zipfile.ZipFile, where: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a zip by their plain names.

    Raises:
        ConfigError: a file in it is encrypted, a link, or compressed in a way that Python cannot read.
        DamagedFileError: two of its files have one name.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = plain_name(info.filename)
        if info.is_dir() or name.endswith("/"):
            continue
        if name in found:
            raise DamagedFileError(f"{where} holds {name} twice; make or fetch it again")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ConfigError(f"{where}: {name} is a link, and not what it leads to; zip without -y")
        if info.flag_bits & _ENCRYPTED:
            raise ConfigError(f"{where}: {name} is encrypted; unpack it, and give the folder or a zip without password")
        if info.compress_type not in _KNOWN:
            method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
            raise ConfigError(f"{where}: {name} is compressed by {method}, which Python cannot read; unpack it, and "
                              "give the folder or a zip by Deflate")  # fmt: skip
        found[name] = info
    return found


def tar_members(archive: tarfile.TarFile, where: Path) -> dict[str, tarfile.TarInfo]:
    """Return the files of a tar by their plain names, links to other files in it too.

    Raises:
        ConfigError: a link leads to a folder or out of it.
        DamagedFileError: two of its files have one name.
    """
    found: dict[str, tarfile.TarInfo] = {}
    members = archive.getmembers()
    files = {posixpath.normpath(member.name) for member in members if member.isfile()}
    for member in members:
        name = plain_name(member.name)
        if not (member.isfile() or member.islnk() or member.issym()):
            continue
        if name in found:
            raise DamagedFileError(f"{where} holds {name} twice; make or fetch it again")
        beside = posixpath.dirname(member.name) if member.issym() else ""
        target = member.name if member.isfile() else posixpath.join(beside, member.linkname)
        if put_on_purpose(name) and posixpath.normpath(target) not in files:
            raise ConfigError(f"{where}: {name} is a link to {member.linkname}, which is no file in it; use tar -h")
        found[name] = member
    return found
