"""Files that somebody published, known by their sha256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tractbench.io.cache import cache_dir
from tractbench.io.download import download
from tractbench.progress import Progress


@dataclass(frozen=True)
class PublishedFile:
    """A file that is fetched once and kept in the cache.

    Attributes:
        url: where it is fetched from.
        sha256: its hash, which decides, wherever the file comes from.
        size: its bytes.
        folder: where it is kept, below the cache's own.
    """

    url: str
    sha256: str
    size: int
    folder: str

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return cache_dir() / self.folder / self.url.rpartition("/")[2]

    def fetch(self, progress: Progress, source: Path | None = None) -> None:
        """Fetch and check the file unless it is there, then check what is there.

        Args:
            progress: draws the bar.
            source: a file on this machine instead of the published address.

        Raises:
            DownloadError: it cannot be fetched; the message says what to put where.
            DamagedFileError: what came, or what is there, has another sha256.
        """
        download(source.absolute().as_uri() if source else self.url, self.path, self.sha256, progress)
