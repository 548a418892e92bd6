"""Scores of samples by their nearest real images in a feature space: density, coverage, authenticity and C_T.

``density`` and ``coverage`` (Naeem et al. 2020, arXiv 2002.09797) count samples within balls about the training images
that reach their fifth neighbour. ``authenticity`` (Alaa et al. 2022, arXiv 2102.08921) is the share of samples that are
further from their nearest training image than that one is from its own nearest. ``ct`` is C_T (Meehan et al. 2020,
arXiv 2004.05675): whether samples are nearer to the training images than held-out images are, as a z-score; well below
0 for a sampler that copies, about 0 for one as good as the truth, above 0 for one that misses the data.

Distances are exact: features are rounded to float32, squared distances computed in float64, in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tractbench.progress import Task

REACHED = 5
"""The neighbour that a training image's ball reaches, as Naeem et al. choose it."""

CELLS = 3
"""Cells of C_T's partition, as Stein et al. 2023 choose it."""

FEWEST = 20
"""Samples that a cell must hold to count in C_T, likewise."""

DISTANCES = 1 << 24
"""Squared distances held at once, 128 MiB."""


@dataclass(frozen=True)
class RealImages:
    """Training images in a feature space, with what does not depend on the samples.

    Attributes:
        features: ``[N, D]``, float32.
        nearest: squared distance of each to its nearest other, ``[N]``, float64.
        radius: squared distance of each to its fifth nearest other, ``[N]``, float64.
        centres: of the cells, ``[C, D]``, float64.
        cell: which cell each is in, ``[N]``.
        held_out: squared distance of each held-out image to the nearest training image of its cell, float64; empty
            where there are none.
        held_out_cell: which cell each is in.
    """

    features: Tensor
    nearest: Tensor
    radius: Tensor
    centres: Tensor
    cell: Tensor
    held_out: Tensor
    held_out_cell: Tensor

    @classmethod
    def of(cls, features: Tensor, held_out: Tensor, task: Task) -> RealImages:
        """Find neighbours and cells.

        Args:
            features: of training images ``[N, D]``, float32; more than five.
            held_out: of held-out images ``[M, D]``, float32, perhaps none.
            task: told of every image.
        """
        centres = _centres(features)
        cell, held_out_cell = (nearest_centre(rows, centres) for rows in (features, held_out))
        nearest, radius = [], []
        for at, distances in squared_distances(features, features):
            index = torch.arange(at, at + len(distances))
            distances[torch.arange(len(distances)), index] = torch.inf  # an image is not its own neighbour
            smallest = distances.topk(REACHED, largest=False).values
            nearest.append(smallest[:, 0])
            radius.append(smallest[:, -1])
            task.advance(len(distances))
        own = [
            _within_cell(d, held_out_cell[at : at + len(d)], cell) for at, d in squared_distances(held_out, features)
        ]
        to_own_cell = torch.cat(own) if own else torch.empty(0, dtype=torch.float64)
        return cls(features, torch.cat(nearest), torch.cat(radius), centres, cell, to_own_cell, held_out_cell)

    def scores(self, samples: Tensor, task: Task) -> dict[str, float]:
        """Return every score of samples ``[M, D]``; C_T without held-out images, or too few in each cell, is NaN.

        Args:
            samples: features, float32.
            task: told of every sample.
        """
        cell = nearest_centre(samples, self.centres)
        inside, covered, authentic, own = 0, torch.zeros(len(self.features), dtype=torch.bool), 0, []
        for at, distances in squared_distances(samples, self.features):
            within = distances < self.radius
            inside += int(within.sum())
            covered |= within.any(0)
            closest, index = distances.min(1)
            authentic += int((closest > self.nearest[index]).sum())
            own.append(_within_cell(distances, cell[at : at + len(distances)], self.cell))
            task.advance(len(distances))
        return {
            "density": inside / (REACHED * len(samples)),
            "coverage": float(covered.double().mean()),
            "authenticity": authentic / len(samples),
            "ct": data_copying(torch.cat(own), cell, self.held_out, self.held_out_cell),
        }


def squared_distances(points: Tensor, others: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield, for pieces of ``points`` ``[P, D]``, the index of the first and squared distances ``[p, O]``, float64."""
    right = others.double()
    squares = right.square().sum(1)
    at = 0
    for piece in torch.split(points, max(1, DISTANCES // max(1, len(others)))):
        left = piece.double()
        yield at, (left.square().sum(1, keepdim=True) + squares - 2 * left @ right.T).clamp_(min=0)
        at += len(piece)


def nearest_centre(points: Tensor, centres: Tensor) -> Tensor:
    """Return the index of the nearest centre of each point."""
    found = [distances.argmin(1) for _, distances in squared_distances(points, centres) if len(distances)]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def _within_cell(distances: Tensor, cell: Tensor, other_cell: Tensor) -> Tensor:
    """Return the smallest distance in each row to a point of the row's own cell; infinite where there is none."""
    return distances.masked_fill(cell[:, None] != other_cell, torch.inf).amin(1)


def _centres(features: Tensor) -> Tensor:
    """Return the centres of the cells by k-means, seeded."""
    from sklearn.cluster import KMeans

    found = KMeans(min(CELLS, len(features)), n_init=10, random_state=0).fit(features.numpy()).cluster_centers_
    return torch.from_numpy(found.astype(np.float64))


def data_copying(samples: Tensor, cell: Tensor, held_out: Tensor, held_out_cell: Tensor) -> float:
    """Return C_T: the mean over cells of the z-scored Mann-Whitney U of samples' distances over held-out ones'.

    A cell counts by its share of the held-out images, and only if it holds 20 samples. The z-score has no continuity
    correction.

    Args:
        samples: distances of samples to the nearest training image of their cell, or anything that grows with them.
        cell: which cell each is in.
        held_out: those of held-out images.
        held_out_cell: which cell each is in.
    """
    total = weight = 0.0
    for index in sorted(set(held_out_cell.tolist())):
        ours, theirs = samples[cell == index], held_out[held_out_cell == index]
        if len(ours) >= FEWEST:
            total += len(theirs) * rank_sum_score(ours.tolist(), theirs.tolist())
            weight += len(theirs)
    return total / weight if weight else math.nan


def rank_sum_score(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the z-score of the Mann-Whitney U: above 0 where the first values are larger; ties count half."""
    from scipy.stats import rankdata

    m, n = len(first), len(second)
    ranks = rankdata([*first, *second])[:m]
    u = float(ranks.sum()) - m * (m + 1) / 2
    return (u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)
