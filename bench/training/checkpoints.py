"""Checkpoints on disk: one file for each saved step, the last two kept, a damaged one stepped over."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tractbench.errors import DamagedFileError
from tractbench.io.tensors import load_tensors, read_header, save_tensors
from tractbench.training.state import Numbers, State

KEPT = 2
REMEDY = "delete it to train from the start"


class Checkpoints:
    """The checkpoints of one student in a folder, ``PREFIX-STEP.safetensors``.

    Files of another student in the same folder are neither read nor removed.

    Args:
        folder: where they lie; it is made when the first one is saved.
        student: the student's id.
        prefix: what their names begin with; runs that must not go on from each other's have different ones.
    """

    def __init__(self, folder: Path, student: str, prefix: str = "checkpoint") -> None:
        self.folder, self.student, self.prefix = folder, student, prefix

    def path(self, step: int) -> Path:
        """Return the file of a step."""
        return self.folder / f"{self.prefix}-{step:09d}.safetensors"

    def files(self) -> dict[int, Path]:
        """Return the files by step, ascending, whosever they are."""
        pattern = re.compile(rf"{re.escape(self.prefix)}-(\d+)\.safetensors")
        names = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        found = {int(match[1]): path for path in names if (match := pattern.fullmatch(path.name))}
        return dict(sorted(found.items()))

    def save(self, state: State) -> Path:
        """Write a state, then remove all files of this student but this one and the last one before it.

        Raises:
            StoreError: the folder cannot be written.
        """
        step = state.numbers.step
        save_tensors(self.path(step), state.tensors, {"student": self.student, **state.numbers.model_dump(mode="json")})
        own = self._own()
        kept = [step, *sorted((s for s in own if s < step), reverse=True)][:KEPT]
        for other, path in own.items():
            if other not in kept:  # later ones too: training went back behind them because they are damaged
                path.unlink(missing_ok=True)
        return self.path(step)

    def newest(self, tell: Callable[[str], None] = lambda text: None) -> State | None:
        """Return the last undamaged state, None if there is no file of this student.

        Args:
            tell: told of every damaged file that was stepped over.

        Raises:
            DamagedFileError: there are files, and all are damaged.
        """
        damaged: dict[Path, DamagedFileError] = {}
        for path in reversed(self.files().values()):
            try:
                tensors, header = load_tensors(path, REMEDY)
            except DamagedFileError as error:
                damaged[path] = error
                continue
            if header.pop("student", None) != self.student:
                continue
            try:
                numbers = Numbers.model_validate(header)
            except ValidationError:
                damaged[path] = DamagedFileError(f"{path} is not what this release saves; {REMEDY}")
                continue
            for bad in damaged:
                tell(f"{bad} is damaged; going on from {path.name} instead")
            return State(tensors, numbers)
        if len(damaged) > 1:
            names = " and ".join(map(str, damaged))
            raise DamagedFileError(f"{names} are damaged; delete them to train from the start")
        if damaged:
            raise next(iter(damaged.values()))
        return None

    def clear(self) -> None:
        """Remove all files of this student, and damaged ones."""
        for path in self._own().values():
            path.unlink(missing_ok=True)

    def _own(self) -> dict[int, Path]:
        """Return the files that are not another student's."""
        headers = {step: read_header(path) for step, path in self.files().items()}
        return {
            step: path
            for step, path in self.files().items()
            if (header := headers[step]) is None or header.get("student") == self.student
        }
