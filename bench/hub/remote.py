"""What a repository of the Hub holds at one commit, by the hashes that the Hub gives."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tractbench.errors import ConfigError
from tractbench.io.files import file_sha256

Kind = Literal["dataset", "model"]
"""Of a repository: results stores are datasets, students are models."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def repository(name: str) -> str:
    """Return the name of a repository.

    Raises:
        ConfigError: it is none.
    """
    if not REPOSITORY.fullmatch(name) or ".." in name or "--" in name or name.endswith((".", "-", ".git")):
        raise ConfigError(f"repository {name!r}: name it OWNER/NAME, in letters, digits and single . _ -")
    return name


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        size: bytes.
        git_sha1: hash of git's blob, for a file that git keeps itself.
        sha256: hash of the contents of a large file, which git only points to; None for other files.
    """

    size: int
    git_sha1: str
    sha256: str | None

    def holds(self, content: Path | bytes) -> bool:
        """Whether it has just these contents, of a file or in memory."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size != self.size:
            return False
        if self.sha256 is not None:
            found = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)
            return found == self.sha256
        return git_sha1(content if isinstance(content, bytes) else content.read_bytes()) == self.git_sha1


@dataclass(frozen=True)
class Snapshot:
    """A repository at a commit.

    Attributes:
        name: OWNER/NAME.
        commit: the commit's hash.
        private: whether only its owner and those whom the owner chose see it.
        files: by their path.
    """

    name: str
    kind: Kind
    commit: str
    private: bool
    files: Mapping[str, RemoteFile] = field(default_factory=dict)


def git_sha1(content: bytes) -> str:
    """Return the hash of contents as a blob of git: of ``blob``, their size, a zero byte, and them."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
