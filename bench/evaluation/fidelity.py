"""Scores of features against reference features: FID-infinity, KID, precision and recall, Inception score.

Where a score draws subsets, it draws them from generators of its own, so that it depends on the features alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.frechet import Gaussian, RunningMoments, frechet_distance
from tractbench.evaluation.neighbours import CELLS, FEWEST, REACHED
from tractbench.evaluation.protocols import NEIGHBOUR_METRICS
from tractbench.seeds import generator

INFINITY_POINTS = 15
INFINITY_SHARE = 10
"""The fewest samples of FID-infinity's regression are a tenth of all."""

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
NEIGHBOURS = 3
INCEPTION_SPLITS = 10

PIECE = 4096
"""Rows whose moments are summed at once."""

DISTANCES = 1 << 25
"""Distances held at once."""

NEEDS = {
    "fid": 2,
    "fid_infinity": INFINITY_POINTS * INFINITY_SHARE,
    "kid": KID_SUBSET_SIZE,
    "precision": NEIGHBOURS + 1,
    "recall": NEIGHBOURS + 1,
    "inception_score": INCEPTION_SPLITS,
}
"""The fewest samples that each metric needs."""

NEEDS_IN_SPACES = {"fd": 2, "mmd": 1, "density": 1, "coverage": 1, "authenticity": 1, "ct": CELLS * FEWEST}
"""The same of metrics that are called ``METRIC_SPACE``."""

FROM_FEATURES = frozenset({"kid", "precision", "recall"})
"""Metrics that need the reference's features and not only their mean and covariance."""


def lacking(metrics: tuple[str, ...], samples: int, training: int | None, held_out: int = 0) -> dict[str, str]:
    """Return the metrics that cannot be computed, each with what it needs.

    Args:
        metrics: names of metrics.
        samples: how many samples there are.
        training: how many training images, None if the reference is a mean and a covariance.
        held_out: how many held-out images.
    """
    found = {}
    for name in metrics:
        kind = name.partition("_")[0]
        least = NEEDS.get(name) or NEEDS_IN_SPACES[kind]
        if samples < least:
            found[name] = f"{least:,} samples, there are {samples:,}"
        elif name in FROM_FEATURES and training is None:
            found[name] = "the reference's features, and there are only their mean and covariance"
        elif name in FROM_FEATURES and training is not None and training < NEEDS[name]:
            found[name] = f"{NEEDS[name]:,} training images, there are {training:,}"
        elif training is None and name.endswith("_inception") and kind in NEIGHBOUR_METRICS:
            found[name] = "the reference's features, and there are only their mean and covariance"
        elif name not in NEEDS and kind in NEIGHBOUR_METRICS and training is not None and training <= REACHED:
            found[name] = f"{REACHED + 1} training images, there are {training:,}"
        elif name not in NEEDS and kind == "ct" and not held_out:
            found[name] = "held-out images, and there are none"
    return found


def held_out_images(dataset: Dataset) -> int:
    """Return how many held-out images there are; of prepared files, as their manifest says."""
    if dataset.files is None:
        return len(dataset.held_out)
    return sum(manifest.count for manifest in dataset.files.manifests() if manifest.split == "held_out")


def check_metrics(metrics: tuple[str, ...], samples: int, training: int | None, held_out: int = 0) -> None:
    """Raise ConfigError for the first metric that :func:`lacking` names."""
    for name, need in (missing := lacking(metrics, samples, training, held_out)).items():
        rest = ",".join(other for other in metrics if other not in missing)
        raise ConfigError(f"{name} needs {need}" + (f"; leave it out: --metrics {rest}" if rest else ""))


def moments(features: Tensor) -> Gaussian:
    """Return mean and covariance of features ``[N, D]``, summed about the mean of their first piece."""
    sums = RunningMoments(features[:PIECE].double().mean(0))
    for piece in torch.split(features, PIECE):
        sums.add(piece)
    return sums.gaussian()


def fid_infinity(features: Tensor, reference: Gaussian) -> float:
    """Extrapolate the Frechet distance of features ``[N, D]`` to infinitely many samples.

    A line in 1/n through the distances of 15 random subsets of n = N/10 to N samples (Chong & Forsyth 2020).
    """
    sizes = torch.linspace(len(features) / INFINITY_SHARE, len(features), INFINITY_POINTS).long().tolist()
    distances = []
    for size in sizes:
        subset = torch.randperm(len(features), generator=generator("fid_infinity", len(features), size))[:size]
        distances.append(frechet_distance(moments(features[subset]), reference))
    inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
    line = torch.linalg.lstsq(
        torch.stack([torch.ones_like(inverse), inverse], 1), torch.tensor(distances, dtype=torch.float64)[:, None]
    )
    return float(line.solution[0])


def kernel_distance(
    features: Tensor, reference: Tensor, *, subsets: int = KID_SUBSETS, subset_size: int = KID_SUBSET_SIZE
) -> float:
    """Return KID: the mean over random subsets of the unbiased squared MMD under the kernel (x.y / D + 1)^3.

    It may be below 0. Both features are ``[>= subset_size, D]``; a subset has no image twice (Binkowski et al. 2018).
    """
    total = 0.0
    for index in range(subsets):
        x, y = (
            rows[torch.randperm(len(rows), generator=generator("kid", name, index))[:subset_size]].double()
            for name, rows in (("samples", features), ("reference", reference))
        )
        within = sum(float(_kernel(z, z).fill_diagonal_(0).sum()) for z in (x, y)) / (subset_size * (subset_size - 1))
        total += within - 2 * float(_kernel(x, y).mean())
    return total / subsets


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return (x.y / D + 1)^3 for all pairs of rows."""
    inner = (x @ y.T) / x.shape[1] + 1
    return inner * inner * inner


def precision_recall(features: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return the share of samples within the reference's manifold, and of the reference within the samples'.

    A set's manifold is the union of balls about its points that reach their third neighbour (Kynkaanniemi et al.
    2019). Distances are computed in pieces, so that memory grows with the longer set only.
    """
    return _covered(features, reference), _covered(reference, features)


def _covered(points: Tensor, manifold: Tensor) -> float:
    """Return the share of ``points`` that lie in a ball of ``manifold``."""
    rows = max(1, DISTANCES // len(manifold))
    # the nearest neighbour of a point in its own set is itself
    nearest = [torch.cdist(part, manifold).kthvalue(NEIGHBOURS + 1).values for part in torch.split(manifold, rows)]
    radii = torch.cat(nearest)
    inside = [(torch.cdist(part, manifold) <= radii).any(1) for part in torch.split(points, rows)]
    return float(torch.cat(inside).double().mean())


def inception_score(logits: Tensor) -> float:
    """Return the mean over 10 splits of exp E KL(p(y|x) || p(y)), of logits ``[N, K]``; images are shuffled first."""
    order = torch.randperm(len(logits), generator=generator("inception_score", len(logits)))
    scores = []
    for split in torch.tensor_split(order, INCEPTION_SPLITS):
        log_p = logits[split].double().log_softmax(1)
        p = log_p.exp()
        divergence = (p * (log_p - p.mean(0).log())).sum(1).mean()
        scores.append(float(divergence.exp()))
    return sum(scores) / len(scores)
