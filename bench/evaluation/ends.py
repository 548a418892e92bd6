"""Where the teacher's full solver leads: the points that a perfect distillation would reach in fewer steps."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tractbench.config.identity import RESULTS_VERSION
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.evaluation.sampling import sample
from tractbench.io.canonical import canonical
from tractbench.io.tensors import load_tensors, save_tensors
from tractbench.progress import Task

ENDS = 512
"""Noises on which students are compared with their teacher, or as many as a run samples."""

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
        clip: clip x0 to [-1, 1] while sampling.
        classes: number of classes, 0 for none.
        device: where networks run.
        count: number of noises.
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
        device: str = "cpu",
        count: int = ENDS,
    ) -> None:
        self._teacher, self._process, self._shape, self.steps = teacher, process, shape, steps
        self._solver, self._clip, self._classes, self._device = solver, clip, classes, device
        self.count = count
        settings = [repr(process), steps, solver, clip, classes, device, list(shape)]
        parts = [RESULTS_VERSION, teacher_hash, settings, count, SEED, min(CHUNK, count)]
        self._path = folder / f"teacher-ends-{hashlib.sha256(canonical(parts).encode()).hexdigest()[:32]}.safetensors"

    def error(self, denoiser: Denoiser, steps: int, solver: str = "ddim") -> float:
        """Return the mean over the noises of the squared L2 distance between a sampler's image and the teacher's.

        Args:
            denoiser: what is sampled.
            steps: its number of steps.
            solver: how it is sampled.
        """
        return float((self._samples(denoiser, steps, solver) - self.ends).square().flatten(1).sum(1).mean())

    @property
    def known(self) -> bool:
        """Whether the file is there."""
        return self._path.exists()

    def compute(self, task: Task | None = None) -> None:
        """Sample the teacher and write the file; ``task`` is told of every image."""
        save_tensors(self._path, {"ends": self._samples(self._teacher, self.steps, self._solver, task)}, {})

    @cached_property
    def ends(self) -> Tensor:
        """The teacher's samples ``[count, C, H, W]``, float64."""
        if not self.known:
            self.compute()
        return load_tensors(self._path, "delete it, it is only a cache")[0]["ends"]

    def _samples(self, denoiser: Denoiser, steps: int, solver: str, task: Task | None = None) -> Tensor:
        batches = sample(
            denoiser,
            self._process,
            self._shape,
            SEED,
            self.count,
            steps,
            chunk=min(CHUNK, self.count),
            solver=solver,
            classes=self._classes,
            clip=self._clip,
            device=self._device,
            task=task,
        )
        return torch.cat(list(batches))
