"""What runs will cost: what similar runs in the store took, else what their operations take on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tractbench.pipeline.cell import Cell
from tractbench.pipeline.devices import Device, this_machine
from tractbench.pipeline.needs import free_memory
from tractbench.pipeline.plan import counted_seconds
from tractbench.pipeline.suite_cells import Wanted
from tractbench.results.record import Record
from tractbench.training.numerics import Precision

STAGES = ("training", "sampling and scoring")


@dataclass(frozen=True)
class Cost:
    """Seconds of one device by stage, and of how many runs nobody knows them.

    Attributes:
        training: seconds.
        sampling: seconds of sampling and scoring.
        runs: how many runs these are.
        counted: runs that are like none in the store, whose seconds follow from their operations.
        unknown: runs that have no operations to count either.
    """

    training: float = 0.0
    sampling: float = 0.0
    runs: int = 0
    counted: int = 0
    unknown: int = 0

    @property
    def total(self) -> float:
        """Seconds of both."""
        return self.training + self.sampling

    def __add__(self, other: Cost) -> Cost:
        """Return both together."""
        return Cost(
            self.training + other.training,
            self.sampling + other.sampling,
            self.runs + other.runs,
            self.counted + other.counted,
            self.unknown + other.unknown,
        )


class Costs:
    """Seconds for an image, by the runs that are done.

    Training: the median over runs of the same data set, method and precision. Sampling and scoring: that over runs of
    the same data set and protocol, at the NFE nearest to the one asked for, not scaled to it.
    """

    def __init__(self, records: Iterable[Record], device: str = "cpu") -> None:
        self._device = device
        self._machines: dict[Precision, Device] = {}
        self._training: dict[tuple[str, str, str], list[float]] = {}
        self._sampling: dict[tuple[str, str], dict[int, list[float]]] = {}
        for record in records:
            config = record.config
            if record.status != "done":
                continue
            if record.training.images:
                each = record.training.seconds / record.training.images
                self._training.setdefault((config.dataset, config.method, config.precision), []).append(each)
            if images := config.samples * len(config.sampling_seeds):
                by_nfe = self._sampling.setdefault((config.dataset, config.protocol), {})
                by_nfe.setdefault(config.nfe, []).append(record.seconds.sampling_and_scoring / images)

    def of(self, cell: Cell, trained: bool) -> Cost:
        """Return what a run costs; ``trained`` says that its student is there or another run's to train."""
        config = cell.config
        training = self._training.get((config.dataset, config.method, config.precision))
        by_nfe = self._sampling.get((config.dataset, config.protocol))
        if by_nfe is None or (training is None and config.budget and not trained):
            return self._counted(cell, trained)
        nearest = min(by_nfe, key=lambda nfe: max(nfe / config.nfe, config.nfe / nfe))
        sampling = statistics.median(by_nfe[nearest]) * config.samples * len(config.sampling_seeds)
        spent = 0.0 if trained or training is None else statistics.median(training) * config.budget
        return Cost(training=spent, sampling=sampling, runs=1)

    def _counted(self, cell: Cell, trained: bool) -> Cost:
        precision = cell.config.precision
        if precision not in self._machines:
            self._machines[precision] = this_machine(self._device, free_memory(self._device), precision)
        seconds = counted_seconds(cell.config, cell.method, cell.dataset, self._machines[precision])
        if not any(seconds):
            return Cost(runs=1, unknown=1)
        training, rest = seconds
        return Cost(training=0.0 if trained else training, sampling=rest, runs=1, counted=1)

    def each(self, cells: Sequence[Wanted], trained: Iterable[str] = ()) -> list[Cost]:
        """Return what each of some runs costs in their order: the first that samples a student trains it.

        Args:
            cells: the runs.
            trained: students that are there.
        """
        there, costs = set(trained), []
        for wanted in cells:
            cell = wanted.cell
            costs.append(self.of(cell, cell.student in there))
            there.add(cell.student)
        return costs
