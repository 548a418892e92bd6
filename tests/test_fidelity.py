import math
import warnings

import numpy as np
import pytest
import torch

from tractbench.errors import ConfigError
from tractbench.evaluation import fidelity
from tractbench.evaluation.fidelity import (
    check_metrics,
    fid_infinity,
    inception_score,
    kernel_distance,
    moments,
    precision_recall,
)
from tractbench.evaluation.frechet import Gaussian, frechet_distance
from tractbench.seeds import generator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric


def features(count, dimensions=16, seed=0, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, dimensions, generator=random) @ mixing + shift


def test_fid_agrees_with_torch_fidelity():
    x, y = features(3000).double(), features(2500, seed=1, shift=0.2).double()
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f) for f in (x, y)), verbose=False)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


def large(count, seed, dimensions=600):
    """Features with variances over four decades, like the Inception network's."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return torch.randn(count, dimensions, generator=random, dtype=torch.float64) @ (
        mixing * torch.logspace(0, -2, dimensions, dtype=torch.float64)
    )


@pytest.mark.parametrize(("count_a", "count_b"), [(1500, 1500), (300, 1500), (1500, 300), (200, 300)])
def test_many_dimensions_agree_with_torch_fidelity_singular_or_not(count_a, count_b):
    x, y = large(count_a, 0), large(count_b, 1) + 0.1
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f) for f in (x, y)), verbose=False)
    ours = frechet_distance(moments(x), moments(y))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours == pytest.approx(frechet_distance(moments(y), moments(x)), rel=1e-6)


@pytest.mark.parametrize("count", [1500, 300])
def test_many_dimensions_to_themselves_are_zero(count):
    a = moments(large(count, 0))
    assert frechet_distance(a, Gaussian(a.mean, a.covariance)) < 1e-7 * float(a.covariance.trace())


def test_many_dimensions_have_the_closed_form_of_diagonal_covariances():
    random = torch.Generator().manual_seed(0)
    stds = torch.rand(2, 600, dtype=torch.float64, generator=random)
    means = torch.rand(2, 600, dtype=torch.float64, generator=random)
    a, b = (Gaussian(m, s.square().diag()) for m, s in zip(means, stds, strict=True))
    expected = float((means[0] - means[1]).square().sum() + (stds[0] - stds[1]).square().sum())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_a_known_root_changes_nothing():
    a, b = moments(large(900, 0)), moments(large(900, 1))
    assert frechet_distance(a, Gaussian(b.mean, b.covariance, b.root)) == frechet_distance(a, b)


def test_a_root_of_many_dimensions_multiplies_back():
    for count in (900, 250):
        a = moments(large(count, 0))
        torch.testing.assert_close(a.root @ a.root.T, a.covariance, rtol=1e-9, atol=1e-9)


def test_infinity_undoes_the_bias_in_n():
    # samples of the reference's own distribution: the distance of n samples is about c / n, that of infinitely many 0
    reference = Gaussian(torch.zeros(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64))
    x = torch.randn(4000, 16, generator=torch.Generator().manual_seed(3))
    biased = frechet_distance(moments(x), reference)
    assert abs(fid_infinity(x, reference)) < 0.35 * biased
    shifted = fid_infinity(x + 0.5, reference)
    assert shifted == pytest.approx(16 * 0.25, rel=0.05)


def test_infinity_is_the_same_each_time_and_reads_no_global_generator():
    x, reference = features(600), moments(features(700, seed=1))
    first = fid_infinity(x, reference)
    torch.manual_seed(5)
    assert fid_infinity(x, reference) == first


def test_infinity_is_exact_on_a_line_in_one_over_n(monkeypatch):
    monkeypatch.setattr(fidelity, "frechet_distance", lambda a, b: 3.0 + 40.0 / a)
    monkeypatch.setattr(fidelity, "moments", len)
    assert fid_infinity(features(500), None) == pytest.approx(3.0, rel=1e-12)


def test_kid_agrees_with_torch_fidelity_on_whole_sets():
    # one subset that is the whole set: no drawing is left
    x, y = features(300), features(300, seed=1, shift=0.3)
    theirs = kid_features_to_metric(x.double(), y.double(), kid_subsets=1, kid_subset_size=300, verbose=False)
    ours = kernel_distance(x, y, subsets=1, subset_size=300)
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_kid_of_subsets_is_torch_fidelitys_up_to_the_draw():
    x, y = features(2000), features(1500, seed=1, shift=0.3)
    theirs = kid_features_to_metric(x, y, kid_subsets=50, kid_subset_size=200, verbose=False)
    mean, std = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    ours = kernel_distance(x, y, subsets=50, subset_size=200)
    assert ours == pytest.approx(mean, abs=4 * std * (2 / 50) ** 0.5)


def test_kid_is_unbiased():
    pairs = [(features(60, seed=2 * s), features(60, seed=2 * s + 1)) for s in range(200)]
    found = torch.tensor([kernel_distance(x, y, subsets=1, subset_size=60) for x, y in pairs])
    assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(len(found))
    assert float(found.min()) < 0


@pytest.mark.parametrize("held", [1 << 25, 1000])
def test_precision_and_recall_agree_with_torch_fidelity(monkeypatch, held):
    monkeypatch.setattr(fidelity, "DISTANCES", held)
    x, y = features(400), 1.3 * features(300, seed=1, shift=0.5)
    theirs = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=10000, save_cpu_ram=True, verbose=False)
    precision, recall = precision_recall(x, y)
    assert precision == pytest.approx(theirs["precision"], abs=1e-7)
    assert recall == pytest.approx(theirs["recall"], abs=1e-7)
    assert 0 < precision < 1
    assert precision != recall


def test_precision_is_of_the_samples_and_recall_of_the_reference():
    # samples in one of two far modes: each sample is real, half of what is real is not covered
    mode, other = features(200, seed=1), features(200, seed=2, shift=1000.0)
    precision, recall = precision_recall(mode.clone(), torch.cat([mode, other]))
    assert (precision, recall) == (1.0, 0.5)


def test_inception_score_agrees_with_torch_fidelity():
    logits = 3 * features(505, 20)
    order = torch.randperm(505, generator=generator("inception_score", 505))
    theirs = isc_features_to_metric(logits[order[:500]], splits=10, shuffle=False)
    ours = inception_score(logits)
    assert ours == pytest.approx(theirs["inception_score_mean"], rel=0.02)
    exact = logits[:500]
    order = torch.randperm(500, generator=generator("inception_score", 500))
    theirs = isc_features_to_metric(exact[order], splits=10, shuffle=False)
    assert inception_score(exact) == pytest.approx(theirs["inception_score_mean"], rel=1e-9)


def test_inception_score_of_sorted_classes_is_that_of_shuffled_ones():
    # images sorted by class would give splits of one class each, and a score of 1
    logits = 100 * torch.eye(10).repeat_interleave(100, 0)
    assert inception_score(logits) == pytest.approx(10, rel=0.1)
    assert inception_score(torch.zeros(50, 10)) == pytest.approx(1, rel=1e-9)


def test_too_few_samples_name_the_metric_and_the_remedy():
    with pytest.raises(ConfigError) as caught:
        check_metrics(("fid", "kid"), 500, 5000)
    assert str(caught.value) == "kid needs 1,000 samples, there are 500; leave it out: --metrics fid"
    with pytest.raises(ConfigError, match=r"kid needs 1,000 training images, there are 500; .* --metrics fid"):
        check_metrics(("fid", "kid"), 1000, 500)
    with pytest.raises(ConfigError, match=r"precision needs the reference's features.* --metrics fid"):
        check_metrics(("fid", "precision"), 1000, None)
    check_metrics(("fid", "kid"), 1000, 1000)


def test_float32_features_give_float64_statistics():
    x = (features(4000) + 1000).float()
    found = moments(x)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.mean.numpy(), x.double().mean(0).numpy(), rtol=1e-12)
