"""Pictures of a finished run: the teacher in all its steps, the teacher in the run's steps, and the student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.evaluation.sampling import fresh_noise, prior_labels, prior_noise
from tractbench.pipeline.cell import Cell
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.samples import draw_samples
from tractbench.progress import Progress, Task
from tractbench.results.pictures import Plane, save_grid, save_mosaic, save_plane
from tractbench.results.store import GRID, PICTURE, TEACHER_GRID

GRID_COLUMNS = 6
GRID_IMAGES = 36
POINTS = 2000
PATHS = 24

Panels = dict[str, tuple[Denoiser, Sampler, bool]]
"""By its title, what a panel shows: a denoiser, its sampler, and whether it is told where each step ends."""


def draw_pictures(
    cell: Cell, teacher: Denoiser, student: Denoiser, folder: Path, runtime: Runtime, progress: Progress
) -> None:
    """Draw a run's pictures into its folder, all from the same noise."""
    full, sampler = Sampler.equal(cell.full_steps, cell.method.teacher_sampler()), cell.sampler
    panels: Panels = {
        _title("teacher", full.steps): (teacher, full, False),
        _title("teacher", sampler.steps): (teacher, replace(sampler, noise=()), False),
    }
    if cell.method.trains:
        panels[_title(cell.config.method, sampler.steps)] = (student, sampler, cell.method.two_times)
    with progress.task("drawing samples", len(panels), "panel") as task:
        if cell.dataset.distribution is None:
            _draw_images(cell, panels, folder, runtime, task)
        else:
            _draw_points(cell, panels, folder, runtime, task)


def _draw_images(cell: Cell, panels: Panels, folder: Path, runtime: Runtime, task: Task) -> None:
    seed, count = cell.config.sampling_seeds[0], min(GRID_IMAGES, cell.config.samples)
    images = {}
    for title, (denoiser, sampler, two_times) in panels.items():
        drawn = draw_samples(
            cell, denoiser, seed, runtime, count=count, chunk=count, sampler=sampler, two_times=two_times
        )
        shown = torch.cat(list(drawn))
        images[title] = cell.dataset.decode(cell.dataset.quantise(shown))
        task.advance(1, title)
    save_grid(folder / PICTURE, images, GRID_COLUMNS)
    grids = list(images.values())
    save_mosaic(folder / TEACHER_GRID, grids[0], GRID_COLUMNS)
    save_mosaic(folder / GRID, grids[-1], GRID_COLUMNS)


def _draw_points(cell: Cell, panels: Panels, folder: Path, runtime: Runtime, task: Task) -> None:
    """Draw paths and samples in the plane of the first two coordinates, over the density where it has no others."""
    seed, shape, distribution = cell.config.sampling_seeds[0], cell.dataset.shape, cell.dataset.distribution
    classes = cell.dataset.classes
    labels = prior_labels(classes, seed, range(PATHS)).to(runtime.device) if classes else None
    shown = {}
    for title, (denoiser, sampler, two_times) in panels.items():
        drawn = draw_samples(cell, denoiser, seed, runtime, count=POINTS, sampler=sampler, two_times=two_times)
        points = torch.cat(list(drawn))
        states = [prior_noise(cell.process, shape, seed, range(PATHS)).to(runtime.device)]
        fresh = [one.to(runtime.device) for one in fresh_noise(sampler, shape, seed, range(PATHS))]
        with torch.no_grad():
            sample_ode(denoiser, cell.process, states[0], sampler, labels, fresh=fresh, two_times=two_times,
                       clip=cell.config.clip_sample, on_step=states.append)  # fmt: skip
        shown[title] = Plane(_plane(points.flatten(1)), _plane(torch.stack(states).flatten(2).cpu()))
        task.advance(1, title)
    density = distribution.density if distribution is not None and shape[0] == 2 else None
    save_plane(folder / PICTURE, shown, density)


def _title(name: str, steps: int) -> str:
    return f"{name}, {steps} step{'s' * (steps != 1)}"


def _plane(points: Tensor) -> Tensor:
    """Return the first two coordinates of points ``[..., D]``; of points on a line, a second one of 0."""
    return torch.nn.functional.pad(points, (0, 1))[..., :2] if points.shape[-1] == 1 else points[..., :2]
