"""Fetching files: resumed where they stopped, checked before they get their name."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock, Timeout

from tractbench.errors import ConfigError, DamagedFileError, DownloadError
from tractbench.io.files import file_sha256, write_atomic
from tractbench.progress import Progress

PIECE = 1 << 20
TIMEOUT = 60


def download(url: str, path: Path, sha256: str | None, progress: Progress) -> str:
    """Fetch a file unless it is there, and return its sha256.

    What has arrived of an interrupted download is kept in ``.part`` beside the file and continued if the server still
    has the same version of it. The file gets its name only once it is whole and has the hash.

    Args:
        url: http, https or file.
        path: where the file goes.
        sha256: what its hash must be, None if nobody knows.
        progress: draws the bar.

    Raises:
        ConfigError: the address is none.
        DownloadError: it cannot be fetched; the message says what to put where by hand.
        DamagedFileError: what came has another hash, or a file of that name is there that has.
        StoreError: the folder cannot be written.
    """
    if not url.startswith(("https://", "http://", "file://")):
        raise ConfigError(f"address {url!r}: give one that begins with https://, http:// or file://")
    if path.is_file():
        found = file_sha256(path)
        if sha256 and found != sha256:
            raise DamagedFileError(
                f"{path} has sha256 {found[:12]}, expected {sha256[:12]}; delete it and fetch it again"
            )
        return found
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            _fetch(url, part, tag, progress)
            found = file_sha256(part)
            if sha256 and found != sha256:
                part.unlink()
                raise DamagedFileError(
                    f"{url} has sha256 {found[:12]}, expected {sha256[:12]}; nothing was kept, try another mirror"
                )
            part.replace(path)
    except Timeout as error:
        raise DownloadError(f"{path} is being fetched by another process; wait for it") from error
    except (http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DownloadError(
            f"cannot fetch {url} ({reason}); the same command goes on where it stopped, or fetch it elsewhere and put "
            f"it at {path}"
        ) from error
    finally:
        if not part.exists():
            tag.unlink(missing_ok=True)
    return found


def _fetch(url: str, part: Path, tag: Path, progress: Progress) -> None:
    """Fetch into ``part``, going on after its end if ``tag`` names the version that the server has."""
    done = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "tractbench"})  # noqa: S310
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # longer than the file: begin again
        _fetch(url, part, tag, progress)
        return
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        done = done if resumed else 0
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if version and not version.startswith("W/"):
            write_atomic(tag, version)
        else:
            with contextlib.suppress(FileNotFoundError):
                tag.unlink()
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else 0
        with part.open("ab" if resumed else "wb") as handle, progress.task(part.stem, total, "B", done) as task:
            while piece := response.read(PIECE):
                handle.write(piece)
                task.advance(len(piece))
            if total and handle.tell() != total:
                raise http.client.IncompleteRead(b"", total - handle.tell())
