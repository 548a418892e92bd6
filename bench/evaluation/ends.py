"""Where the teacher's full solver leads: the points that a perfect distillation would reach in fewer steps."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tractbench.config.identity import SCORING_VERSION
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler
from tractbench.evaluation.part import own_images
from tractbench.evaluation.sampling import sample
from tractbench.io.canonical import canonical
from tractbench.io.files import write_atomic
from tractbench.io.sealed import keep_sealed
from tractbench.progress import Progress, Task
from tractbench.training.parallel import ALONE, Group

ENDS = 512
"""Noises on which students are compared with their teacher, however many samples a run scores."""

SEED = 0
CHUNK = 128


class TeacherEnds:
    """The teacher's samples from the same 512 noises, in all its steps, computed once and kept in a file.

    Args:
        folder: where files of ends are kept; their names hold the hash of all that decides their contents.
        teacher: the teacher.
        teacher_hash: its hash.
        process: its process.
        shape: (C, H, W).
        steps: steps of the full schedule.
        solver: the teacher's own solver.
        clip: clip x0 to [-1, 1] while sampling, as the data allow it, whatever a run does with its samples.
        classes: number of classes, 0 for none.
        precision: numerics of the networks' passes, which the denoisers given see to.
        device: where networks run.
        group: the processes that share out the sampling; all of them must ask for errors and ends.
        progress: draws the bar, and says when the file is damaged and so computed again.
    """

    def __init__(
        self,
        folder: Path,
        teacher: Denoiser,
        teacher_hash: str,
        process: Process,
        shape: tuple[int, int, int],
        steps: int,
        *,
        solver: str,
        clip: bool,
        classes: int = 0,
        precision: str = "fp32",
        device: str = "cpu",
        group: Group = ALONE,
        progress: Progress | None = None,
    ) -> None:
        self._teacher, self._process, self._shape, self.steps = teacher, process, shape, steps
        self._sampler = Sampler.equal(steps, solver)
        self._clip, self._classes, self._device = clip, classes, device
        self._group, self._progress = group, progress or Progress()
        self._own = own_images(ENDS, (CHUNK,), group)
        parts = [SCORING_VERSION, teacher_hash, process.key, steps, solver, clip, classes, precision]
        self._path = folder / f"teacher-ends-{hashlib.sha256(canonical(parts).encode()).hexdigest()[:32]}.npy"

    def error(self, denoiser: Denoiser, sampler: Sampler, two_times: bool = False) -> float:
        """Return the mean over the noises of the squared L2 distance between a sampler's image and the teacher's.

        Args:
            denoiser: what is sampled.
            sampler: how it is sampled.
            two_times: it is also told where each step ends.
        """
        found = self._samples(denoiser, sampler, two_times=two_times)
        return float((found - self.ends).square().flatten(1).sum(1).mean())

    def prepare(self) -> None:
        """Read or compute the teacher's samples now, with a progress bar."""
        _ = self.ends

    @cached_property
    def ends(self) -> Tensor:
        """The teacher's samples ``[512, C, H, W]``, float64.

        Raises:
            StoreError: the folder cannot be written.
        """
        group, asked = self._group, []

        def compute() -> None:
            asked.append(group.from_main(lambda: True))
            self._compute()

        if group.is_main:
            keep_sealed((self._path,), compute, self._progress)
        if not asked and group.from_main(lambda: False):  # rank 0 found nothing, and all sample their share
            self._samples(self._teacher, self._sampler)
        return group.from_main(lambda: torch.from_numpy(np.load(self._path)))

    def _compute(self) -> None:
        with self._progress.task(f"teacher, {self.steps} steps", len(self._own), "image") as task:
            ends = self._samples(self._teacher, self._sampler, task).numpy()

        def write(file: Path) -> None:
            with file.open("wb") as handle:
                np.save(handle, ends)

        write_atomic(self._path, write)

    def _samples(
        self, denoiser: Denoiser, sampler: Sampler, task: Task | None = None, two_times: bool = False
    ) -> Tensor:
        batches = sample(
            denoiser,
            self._process,
            self._shape,
            SEED,
            self._own.stop,
            sampler,
            chunk=CHUNK,
            first=self._own.start,
            two_times=two_times,
            classes=self._classes,
            clip=self._clip,
            device=self._device,
            task=task,
        )
        none = torch.empty((0, *self._shape), dtype=torch.float64)
        parts = self._group.gather(torch.cat([none, *batches]))
        return self._group.from_main(lambda: torch.cat(parts))
