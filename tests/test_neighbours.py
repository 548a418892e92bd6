"""Density, coverage, authenticity, C_T and the kernel discrepancy, by their definitions and in cases that are known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from tractbench.evaluation import mmd, neighbours
from tractbench.evaluation.mmd import SCALE, SIGMA, discrepancy, kernel_mean
from tractbench.evaluation.neighbours import REACHED, RealImages, data_copying, rank_sum_score
from tractbench.progress import Progress

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(count, seed=0, width=3):
    return torch.randn((count, width), generator=torch.Generator().manual_seed(seed))


def task():
    return Progress().task("test", 1, "image")


def real(train, held_out):
    with task() as bar:
        return RealImages.of(train, held_out, bar)


def scores(train, held_out, samples):
    with task() as bar:
        return real(train, held_out).scores(samples, bar)


def by_definition(train, samples):
    """Density, coverage and authenticity, a point at a time."""
    train, samples = (x.numpy().astype(np.float64) for x in (train, samples))
    between = lambda x, y: np.linalg.norm(x - y)  # noqa: E731
    others = [sorted(between(t, u) for j, u in enumerate(train) if j != i) for i, t in enumerate(train)]
    inside = np.array([[between(s, t) < others[i][REACHED - 1] for i, t in enumerate(train)] for s in samples])
    authentic = 0
    for sample in samples:
        distances = [between(sample, t) for t in train]
        nearest = int(np.argmin(distances))
        authentic += distances[nearest] > others[nearest][0]
    return inside.sum() / (REACHED * len(samples)), inside.any(0).mean(), authentic / len(samples)


def test_scores_are_those_of_the_definitions():
    train, samples = rows(40), 1.3 * rows(25, 1)
    found = scores(train, rows(10, 2), samples)
    expected = by_definition(train, samples)
    assert (found["density"], found["coverage"], found["authenticity"]) == pytest.approx(expected, abs=1e-12)
    assert 0 < found["coverage"] < 1
    assert 0 < found["authenticity"] < 1


def test_pieces_change_nothing(monkeypatch):
    train, held_out, samples = rows(60), rows(30, 1), rows(70, 2)
    whole = scores(train, held_out, samples)
    monkeypatch.setattr(neighbours, "DISTANCES", 7 * len(train))
    assert scores(train, held_out, samples) == pytest.approx(whole, rel=1e-12)


def test_a_copier_is_caught_and_a_fresh_sample_is_not():
    train, held_out = rows(600), rows(300, 1)
    copied, fresh = scores(train, held_out, train[:300]), scores(train, held_out, rows(300, 2))
    assert copied["authenticity"] == 0
    assert copied["ct"] < -10
    assert abs(fresh["ct"]) < 3
    assert fresh["authenticity"] > 0.4
    far = scores(train, held_out, rows(300, 2) + 20)
    assert far["ct"] > 10
    assert (far["density"], far["coverage"], far["authenticity"]) == (0, 0, 1)


def test_density_of_fresh_samples_is_about_one_and_unbounded():
    # Naeem et al. 2020, lemma 1: the expectation is 1 where both are of one distribution
    train = rows(500)
    assert scores(train, train[:0], rows(2000, 3))["density"] == pytest.approx(1, abs=0.1)
    heap = train[:1].expand(50, -1) + 1e-3 * rows(50, 4)
    assert scores(train, train[:0], heap)["density"] > 1


def test_ties_lie_outside_the_balls():
    # points of a line at whole numbers: of those at the ends the fifth neighbour is five away
    train = torch.arange(12.0)[:, None]
    found = scores(train, train[:0], torch.tensor([[-5.0]]))
    assert found["density"] == 0
    assert scores(train, train[:0], torch.tensor([[-4.75]]))["density"] == pytest.approx(1 / REACHED)


def test_without_held_out_images_ct_is_not_a_number():
    train = rows(50)
    assert math.isnan(scores(train, train[:0], rows(50, 1))["ct"])


def test_the_rank_sum_score_is_the_mann_whitney_test():
    first, second = rows(40, 1, 1)[:, 0].tolist(), (rows(30, 2, 1)[:, 0] + 0.5).tolist()
    z = rank_sum_score(first, second)
    for alternative, p in (("less", 0.5 * math.erfc(-z / 2**0.5)), ("greater", 0.5 * math.erfc(z / 2**0.5))):
        test = mannwhitneyu(first, second, alternative=alternative, method="asymptotic", use_continuity=False)
        assert test.pvalue == pytest.approx(p, rel=1e-9)
    assert rank_sum_score(second, first) == pytest.approx(-z)
    assert rank_sum_score([1.0] * 5, [1.0] * 9) == 0


def test_cells_count_by_their_held_out_images_and_if_they_hold_enough_samples():
    ours, theirs = torch.arange(45.0), torch.arange(40.0) + 0.5
    cell, held_out_cell = torch.tensor([0] * 20 + [1] * 25), torch.tensor([0] * 10 + [1] * 30)
    first = rank_sum_score(ours[:20].tolist(), theirs[:10].tolist())
    second = rank_sum_score(ours[20:].tolist(), theirs[10:].tolist())
    assert data_copying(ours, cell, theirs, held_out_cell) == pytest.approx((10 * first + 30 * second) / 40)
    cell = torch.tensor([0] * 19 + [1] * 26)
    alone = rank_sum_score(ours[19:].tolist(), theirs[10:].tolist())
    assert data_copying(ours, cell, theirs, held_out_cell) == pytest.approx(alone)


def test_the_discrepancy_is_that_of_the_kernel(monkeypatch):
    x, y = (rows(count, seed, 5) + shift for count, seed, shift in ((30, 1, 0.3), (20, 2, 0)))

    def mean(a, b):
        a, b = (v.double() / v.double().norm(dim=1, keepdim=True) for v in (a, b))
        return float(torch.exp(-torch.cdist(a, b).square() / (2 * SIGMA**2)).mean())

    expected = SCALE * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    found = discrepancy(x, y, kernel_mean(y, y))
    assert found == pytest.approx(expected, rel=1e-8)
    assert found > 0
    assert discrepancy(y, y, kernel_mean(y, y)) == pytest.approx(0, abs=1e-10)
    assert discrepancy(7 * x, y, kernel_mean(y, y)) == pytest.approx(found, rel=1e-6)  # of directions alone
    monkeypatch.setattr(mmd, "PAIRS", 45)
    assert discrepancy(x, y, kernel_mean(y, y)) == pytest.approx(found, rel=1e-9)
