"""What one process knows of a set of samples that several share out: parts add up to what a single one would know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tractbench.evaluation.frechet import RunningMoments
from tractbench.training.parallel import Group, share


@dataclass(frozen=True)
class Part:
    """Sums over consecutive samples.

    Attributes:
        moments: of their features, by feature space; about the same points in every part.
        sums: other sums over them, by name.
        rows: features ``[B, D]`` of each of them, by name, for metrics that need them all; none without samples.
    """

    moments: Mapping[str, RunningMoments]
    sums: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)


def merged(parts: Sequence[Part]) -> Part:
    """Return the part of all samples together, added up in the order of the parts, as rounding has one.

    Raises:
        ValueError: there is no part, or the parts' moments are about different points.
    """
    if not parts:
        raise ValueError("nothing to merge; give at least one part")
    first = parts[0]
    moments = {name: RunningMoments(own.shift) for name, own in first.moments.items()}
    for part in parts:
        for name, own in part.moments.items():
            moments[name].merge(own)
    sums = {name: sum(part.sums[name] for part in parts) for name in first.sums}
    names = dict.fromkeys(name for part in parts for name in part.rows)
    rows = {name: torch.cat([part.rows[name] for part in parts if name in part.rows]) for name in names}
    return Part(moments, sums, rows)


def own_images(count: int, together: Sequence[int], group: Group) -> range:
    """Return the images of a process: consecutive, and cut only where pieces of every given size end.

    Networks round differently at other batch sizes, so what runs together in one process does in several.

    Args:
        count: images of all processes.
        together: sizes of the pieces that run together, from the first image on.
        group: the processes.
    """
    unit = math.lcm(*together)
    units = share(-(-count // unit), group.rank, group.size)
    return range(min(units.start * unit, count), min(units.stop * unit, count))
