"""Short timed runs of a run's stages on this machine, each as large as its share of the time allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tractbench.config.fields import MAX_BUDGET, RunConfig
from tractbench.datasets.base import Dataset, NetworkPreset
from tractbench.diffusion.denoiser import Denoiser, on_device
from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.evaluation.protocols import load_protocol
from tractbench.method import Method
from tractbench.pipeline.stages import Kind
from tractbench.pipeline.timing import Work, seconds
from tractbench.seeds import generator
from tractbench.teachers.load import new_denoiser
from tractbench.training.distillation import Distillation
from tractbench.training.numerics import in_precision, precision

CALLS = 3
"""Calls of a piece of work: the first allocates and chooses kernels, the faster of the others counts."""

SYNTHETIC_IMAGES = 256


@dataclass(frozen=True)
class Subject:
    """A run whose stages can be timed without its data and its teacher: random images, random weights.

    Attributes:
        config: the run.
        method: its method.
        dataset: its data set.
        process: its process.
        preset: architecture of the teacher; None is a closed form.
        device: cpu or cuda.
    """

    config: RunConfig
    method: Method
    dataset: Dataset
    process: Process
    preset: NetworkPreset | None
    device: str

    def network(self) -> Denoiser:
        """Return a teacher of the architecture with random weights, or the closed form, on the device."""
        if self.preset is None:
            return on_device(self.dataset.exact_denoiser(self.process), self.device)
        denoiser = new_denoiser(self.preset, self.process, generator("synthetic", "teacher"))
        return denoiser.requires_grad_(False).eval().to(self.device)

    def student(self) -> Denoiser:
        """Return a student of that teacher, or the closed form in its place."""
        network = self.network()
        return self.method.parameterise(network, self.process) if isinstance(network, nn.Module) else network

    def images(self) -> Tensor:
        """Return random images as the data set keeps them, points of the true distribution where there is one."""
        if self.dataset.distribution is not None:
            return self.dataset.distribution.draw(SYNTHETIC_IMAGES, "synthetic")
        shape = (SYNTHETIC_IMAGES, *self.dataset.shape)
        return torch.randint(
            self.dataset.levels, shape, generator=generator("synthetic", "images"), dtype=torch.int64
        ).to(torch.uint8)

    def labels(self, count: int) -> Tensor | None:
        """Return classes ``[count]``, None for data without."""
        return torch.zeros(count, dtype=torch.int64, device=self.device) if self.dataset.classes else None

    def distillation(self, batch: int) -> Distillation:
        """Return a distillation in the middle of its longest jump, with steps enough for any measurement.

        Args:
            batch: images of a step.
        """
        # the learning rate leaves random networks where they are: they must not diverge while they are timed
        endless = self.config.model_copy(update={"batch": batch, "budget": MAX_BUDGET, "lr": 1e-12})
        images = self.images()
        labels = torch.zeros(len(images), dtype=torch.int64) if self.dataset.classes else None
        run = Distillation(
            endless,
            self.method,
            self.process,
            self.network(),
            images,
            decode=self.dataset.decode,
            labels=labels,
            flips=self.dataset.flips,
            distances={name: one.untrained() for name, one in self.method.distances(self.dataset.shape).items()},
            new_network=self._student,
            device=self.device,
        )
        longest = max(run.plans, key=lambda plan: plan.phase.group)
        if run.plans[0].network is None:
            run.step = longest.first_step
        return run

    def _student(self, name: str) -> nn.Module:
        return new_denoiser(self.dataset.network(name, self.config.process), self.process, generator("synthetic", name))

    def evaluation(self, denoiser: Denoiser, images: int) -> Work:
        """Return one step of a sampler of so many images."""
        noise = torch.randn((images, *self.dataset.shape), generator=generator("synthetic", "noise"))
        noise = (noise * self.process.prior_std).to(self.device)
        labels = self.labels(images)

        def step() -> None:
            with torch.no_grad(), precision(self.config.precision, self.device):
                one = in_precision(denoiser, self.config.precision, self.device)
                sample_ode(one, self.process, noise, Sampler.equal(1), labels, clip=self.config.clip_sample)

        return step

    def scoring(self, images: int) -> Work:
        """Return the Inception features of so many images, by random weights, which do not matter for the time."""
        from tractbench.evaluation.extractors.inception import Inception

        network, resize = Inception.untrained(self.device), load_protocol(self.config.protocol).resize
        grey = torch.zeros((images, *self.dataset.shape), dtype=torch.uint8)
        return lambda: network(grey, resize)


def measure_stages(subject: Subject, estimates: Mapping[Kind, tuple[float, int]], limit: float) -> dict[Kind, float]:
    """Return the seconds an image that stages take, of those whose measurement fits the time.

    Args:
        subject: the run.
        estimates: by stage (``evaluation``, ``training``, ``scoring``), the seconds that an image is expected to take
            and how many images the run handles together.
        limit: seconds for all of them.
    """
    works: dict[Kind, Callable[[int], Work]] = {
        "evaluation": lambda images: subject.evaluation(subject.network(), images),
        "training": lambda images: subject.distillation(images).train_step,
        "scoring": subject.scoring,
    }
    each = limit / (len(works) * CALLS)
    found: dict[Kind, float] = {}
    for name, (expected, most) in estimates.items():
        if name not in works:
            continue
        images = min(most, int(each / max(expected, 1e-12)))
        if images == 0:
            continue
        work = works[name](images)
        work()
        found[name] = min(seconds(work, subject.device) for _ in range(CALLS - 1)) / images
    return found
