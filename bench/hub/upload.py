"""Files on their way to a repository, which may have to be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tractbench.hub.client import Hub, size_of
from tractbench.hub.remote import Kind, Snapshot
from tractbench.progress import Progress


@dataclass(frozen=True)
class Upload:
    """What would be sent to a repository.

    Attributes:
        name: OWNER/NAME.
        before: the repository as it was seen, None if it has to be made.
        private: whether it is made private.
        groups: contents by path; the files of a group are of use together only.
    """

    name: str
    kind: Kind
    before: Snapshot | None
    private: bool
    groups: tuple[Mapping[str, Path | bytes], ...] = ()

    @property
    def files(self) -> dict[str, int]:
        """Bytes by path."""
        return {path: size_of(content) for group in self.groups for path, content in group.items()}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    @property
    def visibility(self) -> str:
        """Who will see it: private or public."""
        return "private" if (self.private if self.before is None else self.before.private) else "public"

    def send(self, hub: Hub, message: str, progress: Progress) -> str:
        """Make the repository, if need be, send the files and return the last commit; see :meth:`.Hub.commit`."""
        snapshot = self.before or hub.create(self.name, self.kind, self.private)
        return hub.commit(snapshot, self.groups, message, progress)
