import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tractbench.evaluation.frechet import Gaussian, RunningMoments, frechet_distance

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric


# The root of a zero variance that was rounded to 1e-16 is 1e-8: so far is a rank-deficient distance determined.
SINGULAR = 1e-7


def rng(seed=0):
    return np.random.default_rng(seed)


def sums(features, splits=(), shift=None):
    features = torch.as_tensor(features)
    moments = RunningMoments(features[0] if shift is None else torch.as_tensor(shift))
    for part in torch.tensor_split(features, list(splits)):
        moments.add(part)
    return moments


def fitted(features, splits=(), shift=None):
    return sums(features, splits, shift).gaussian()


def gaussian(mean, covariance):
    return Gaussian(torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64))


def random_gaussian(dimensions, rank, seed):
    factor = rng(seed).normal(size=(dimensions, rank))
    return gaussian(rng(seed + 1000).normal(size=dimensions), factor @ factor.T)


def rotation(dimensions, seed):
    q, _ = np.linalg.qr(rng(seed).normal(size=(dimensions, dimensions)))
    return torch.from_numpy(q)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-10, 10)] * 2, *[st.floats(0, 10)] * 2), min_size=1, max_size=8))
def test_diagonal_covariances_have_a_closed_form(rows):
    means_a, means_b, stds_a, stds_b = zip(*rows, strict=True)
    a = gaussian(means_a, np.diag(np.square(stds_a)))
    b = gaussian(means_b, np.diag(np.square(stds_b)))
    expected = sum((m - n) ** 2 + (s - r) ** 2 for m, n, s, r in rows)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10, abs=1e-9)


@pytest.mark.parametrize("rank", [1, 5, 16])
def test_distance_to_itself_is_zero(rank):
    a = random_gaussian(16, rank, seed=rank)
    assert frechet_distance(a, gaussian(a.mean.clone(), a.covariance.clone())) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("rank_a", "rank_b", "tolerance"), [(8, 8, 1e-10), (8, 2, SINGULAR), (1, 3, SINGULAR)])
def test_distance_is_symmetric(rank_a, rank_b, tolerance):
    a, b = random_gaussian(8, rank_a, 1), random_gaussian(8, rank_b, 2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=tolerance)


def test_orthogonal_subspaces_share_nothing():
    # S_a S_b = 0: the distance is |m_a - m_b|^2 + tr S_a + tr S_b
    q = rotation(10, 3)
    first, second = q[:, :4], q[:, 4:7]
    variances_a, variances_b = torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.tensor([0.5, 5.0, 1.5]).double()
    a = gaussian(torch.zeros(10), first @ variances_a.diag() @ first.T)
    b = gaussian(torch.full((10,), 0.2), second @ variances_b.diag() @ second.T)
    assert frechet_distance(a, b) == pytest.approx(0.4 + 10 + 7, rel=SINGULAR)


def test_commuting_singular_covariances():
    # common eigenvectors, some variances zero on either side: sum of (sqrt(l) - sqrt(m))^2
    q = rotation(6, 4)
    left, right = [4.0, 9.0, 0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 16.0, 1.0, 0.0]
    a, b = (gaussian(torch.zeros(6), q @ torch.tensor(v).double().diag() @ q.T) for v in (left, right))
    assert frechet_distance(a, b) == pytest.approx(1 + 9 + 0 + 16 + 0 + 0, rel=SINGULAR)


def test_two_lines_at_an_angle():
    # rank one each, a a^T and b b^T: tr (S_a S_b)^(1/2) = |a.b|
    a, b = np.array([3.0, 0.0, 0.0]), 2 * np.array([math.cos(1.0), math.sin(1.0), 0.0])
    expected = 9 + 4 - 2 * 6 * math.cos(1.0)
    found = frechet_distance(gaussian(np.zeros(3), np.outer(a, a)), gaussian(np.zeros(3), np.outer(b, b)))
    assert found == pytest.approx(expected, rel=1e-12)


def test_two_by_two_closed_form():
    # tr (S_a S_b)^(1/2) = sqrt(tr(S_a S_b) + 2 sqrt(det S_a det S_b))
    s, r = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    root = math.sqrt(np.trace(s @ r) + 2 * math.sqrt(np.linalg.det(s) * np.linalg.det(r)))
    expected = np.trace(s) + np.trace(r) - 2 * root
    assert frechet_distance(gaussian([0, 0], s), gaussian([0, 0], r)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [2, 12])
def test_translation_adds_the_squared_shift(rank):
    a, b = random_gaussian(12, rank, 5), random_gaussian(12, 12, 6)
    shift = b.mean - a.mean + torch.arange(12, dtype=torch.float64)
    centred = frechet_distance(a, Gaussian(a.mean, b.covariance))
    moved = frechet_distance(a, Gaussian(a.mean + shift, b.covariance))
    assert moved - centred == pytest.approx(float(shift.square().sum()), rel=1e-10)


@pytest.mark.parametrize(("rank", "tolerance"), [(3, SINGULAR), (9, 1e-10)])
def test_distance_is_invariant_under_rotation(rank, tolerance):
    q = rotation(9, 7)
    a, b = random_gaussian(9, rank, 8), random_gaussian(9, 9, 9)
    turned = [Gaussian(q @ g.mean, q @ g.covariance @ q.T) for g in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(frechet_distance(a, b), rel=tolerance)


def test_distance_scales_with_the_square_of_the_features():
    a, b = random_gaussian(5, 5, 10), random_gaussian(5, 5, 11)
    scaled = [Gaussian(7 * g.mean, 49 * g.covariance) for g in (a, b)]
    assert frechet_distance(*scaled) == pytest.approx(49 * frechet_distance(a, b), rel=1e-10)


def test_covariance_is_used_whole_and_not_only_its_diagonal():
    s = np.array([[1.0, 0.9], [0.9, 1.0]])
    assert frechet_distance(gaussian([0, 0], s), gaussian([0, 0], np.eye(2))) > 0.1


@pytest.mark.parametrize(("count", "dimensions"), [(500, 8), (2000, 64), (300, 48)])
def test_agrees_with_torch_fidelity(count, dimensions):
    mixing = rng(12).normal(size=(dimensions, dimensions))
    x = rng(13).normal(size=(count, dimensions)) @ mixing
    y = rng(14).normal(size=(count + 7, dimensions)) ** 3 + 0.5
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.from_numpy(f)) for f in (x, y)), verbose=False)
    assert frechet_distance(fitted(x), fitted(y)) == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-6)


@settings(deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(1, 59), unique=True, max_size=10).map(sorted))
def test_moments_agree_with_numpy_for_any_split(seed, splits):
    x = rng(seed).normal(size=(60, 4)) @ rng(seed + 1).normal(size=(4, 4)) + 3
    found = fitted(x, splits)
    np.testing.assert_allclose(found.mean.numpy(), x.mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x, rowvar=False), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("splits", [(0,), (20, 20), (60,)])
def test_an_empty_batch_changes_nothing(splits):
    x = rng(15).normal(size=(60, 4))
    found = fitted(x, splits)
    np.testing.assert_allclose(found.mean.numpy(), x.mean(0), atol=1e-14)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x, rowvar=False), atol=1e-13)


@pytest.mark.parametrize("offset", [1e4, 1e7])
def test_a_large_offset_does_not_cancel(offset):
    # eighths up to 8 stay exact beside the offset, so the shifted data are the same data
    x = np.round(rng(16).normal(size=(400, 3)) * 8) / 8
    found = fitted(x + offset, splits=(1, 100, 250))
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x, rowvar=False), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.mean.numpy() - offset, x.mean(0), atol=4e-16 * offset)


def assert_equal_moments(found, expected, relative=1e-12):
    # a covariance's entries are known to the scale of the variances that they belong to
    spread = expected.covariance.diagonal().sqrt()
    assert float(((found.covariance - expected.covariance).abs() / torch.outer(spread, spread)).max()) < relative
    assert float(((found.mean - expected.mean).abs() / (expected.mean.abs() + spread)).max()) < relative


@settings(deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(1, 59), unique=True, max_size=6).map(sorted), st.floats(-3, 3))
def test_merged_parts_are_the_whole(seed, splits, shift):
    x = torch.from_numpy(rng(seed).normal(size=(60, 4)) @ rng(seed + 1).normal(size=(4, 4)) + 1)
    point = torch.full((4,), shift, dtype=torch.float64)
    whole, merged = sums(x, shift=point), RunningMoments(point)
    for part in torch.tensor_split(x, splits):
        merged.merge(sums(part, shift=point))
    assert merged.count == whole.count == 60
    for found, expected in ((merged.sum, whole.sum), (merged.outer, whole.outer)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(whole.outer.diagonal().max()))
    assert_equal_moments(merged.gaussian(), whole.gaussian())
    np.testing.assert_allclose(merged.gaussian().covariance.numpy(), np.cov(x.numpy(), rowvar=False), rtol=1e-11)


def test_merged_sums_are_the_sums_of_the_parts_to_the_bit():
    x, point = torch.from_numpy(rng(20).normal(size=(90, 5))), torch.ones(5, dtype=torch.float64)
    parts = [sums(part, shift=point) for part in x.split(40)]
    merged = RunningMoments(point)
    for part in parts:
        merged.merge(part)
    assert torch.equal(merged.sum, parts[0].sum + parts[1].sum + parts[2].sum)
    assert torch.equal(merged.outer, parts[0].outer + parts[1].outer + parts[2].outer)


def test_an_empty_part_changes_nothing():
    x, point = torch.from_numpy(rng(21).normal(size=(30, 3))), torch.zeros(3, dtype=torch.float64)
    whole = sums(x, shift=point)
    before = whole.sum.clone(), whole.outer.clone()
    whole.merge(RunningMoments(point))
    assert (torch.equal(whole.sum, before[0]), torch.equal(whole.outer, before[1]), whole.count) == (True, True, 30)


def test_sums_about_different_points_do_not_add_up():
    with pytest.raises(ValueError, match="different points"):
        RunningMoments(torch.zeros(2)).merge(RunningMoments(torch.ones(2)))


@pytest.mark.parametrize("offset", [1e4, 1e7])
def test_merged_parts_far_from_zero_keep_their_covariance(offset):
    # a shift within a spread of the mean: nothing cancels however far away all that is
    x = np.round(rng(22).normal(size=(400, 3)) * 8) / 8
    merged = RunningMoments(torch.full((3,), offset + 0.5, dtype=torch.float64))
    for part in torch.from_numpy(x + offset).split(90):
        merged.merge(sums(part, shift=merged.shift))
    np.testing.assert_allclose(merged.gaussian().covariance.numpy(), np.cov(x, rowvar=False), rtol=1e-12, atol=1e-13)


def test_the_shift_changes_only_the_rounding():
    x = torch.from_numpy(rng(23).normal(size=(200, 4)) + 2)
    expected = fitted(x, shift=x.mean(0))
    for shift in (0.0, 1.0, -30.0):
        assert_equal_moments(fitted(x, shift=torch.full((4,), shift)), expected)


def test_float32_features_are_summed_in_float64():
    x = (rng(17).normal(size=(5000, 2)) + 100).astype(np.float32)
    found = fitted(x, splits=range(50, 5000, 50))
    assert found.covariance.dtype == torch.float64
    np.testing.assert_allclose(
        found.covariance.numpy(), np.cov(x.astype(np.float64), rowvar=False), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_have_no_covariance(count):
    moments = RunningMoments(torch.zeros(2))
    if count:
        moments.add(torch.zeros(count, 2))
    with pytest.raises(ValueError, match=f"at least 2 samples, not {count}"):
        moments.gaussian()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_feature_that_is_not_finite_never_becomes_a_score(bad):
    x = torch.from_numpy(rng(18).normal(size=(50, 3)))
    spoiled = x.clone()
    spoiled[7, 1] = bad
    with pytest.raises((ValueError, RuntimeError)):
        frechet_distance(fitted(spoiled), fitted(x))


def test_the_root_of_a_covariance_multiplies_back_to_it():
    a = random_gaussian(7, 3, 19)
    torch.testing.assert_close(a.root @ a.root.T, a.covariance, rtol=1e-12, atol=1e-12)
