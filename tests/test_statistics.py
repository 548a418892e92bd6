"""Statistics of a few training seeds, against scipy and published examples."""

import numpy as np
import pytest
from scipy import stats

from tractbench.results.statistics import (
    PValues,
    any_of,
    difference,
    equivalence_seeds,
    equivalent,
    every,
    holm,
    lower,
    paired_seeds,
    spread,
)


def test_a_paired_difference_is_scipys_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, 7), random.normal(0.5, 1, 7)
    found = difference(list(a - b))
    theirs = stats.ttest_rel(a, b, alternative="less")
    assert found.p_below(0) == pytest.approx(theirs.pvalue)
    assert found.interval() == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval(0.95)))
    assert lower(found).holds == pytest.approx(theirs.pvalue)
    assert lower(found).fails == pytest.approx(1 - theirs.pvalue)


def test_one_seed_and_equal_seeds_decide_nothing():
    assert difference([1.0]) is None
    assert difference([2.0, 2.0, 2.0]) is None
    assert lower(None).decide() == equivalent(None, 1.0).decide() == "inconclusive"


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_spreads_of_training_and_sampling_stay_apart():
    found = spread({0: {0: 1.0, 1: 3.0}, 1: {0: 2.0, 1: 10.0}})  # variances 2 and 32 over sampling seeds
    assert (found.mean, found.n) == (4.0, 2)
    assert found.training == pytest.approx(8**0.5)
    assert found.sampling == pytest.approx(17**0.5)


@pytest.mark.parametrize(("offset", "wrong"), [(0.3, "reproduced"), (0.2999, "contradicted")])
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize(("own", "error"), [(0.03, 0.01), (0.05, 0.01), (0.1, 0.05), (0.2, 0.05), (0.1, 0.1)])
def test_equivalence_errs_in_at_most_one_of_twenty(n, own, error, offset, wrong):
    """On the edge of the margin neither decision is made too often, however few seeds and whatever both errors are."""
    random, draws = np.random.default_rng(1), 2000
    found = [
        difference(list(random.normal(5.0 + offset, own, n)), 5.0 + random.normal(0, error), error)
        for _ in range(draws)
    ]
    verdicts = [equivalent(one, 0.3).decide() for one in found]
    # a true 5% of 2,000 draws exceeds 6.5% once in 1,000
    assert verdicts.count(wrong) / draws <= 0.065


def test_a_reference_without_error_leaves_t_and_a_sample_without_spread_leaves_the_normal_distribution():
    values = [5.1, 5.3, 5.0, 5.2]
    exact = difference(values, 5.0)
    assert exact.p_above(0) == pytest.approx(stats.ttest_1samp(values, 5.0, alternative="greater").pvalue)
    steady = difference([5.2, 5.2 + 1e-9, 5.2 - 1e-9], 5.0, 0.1)
    assert steady.p_above(0) == pytest.approx(stats.norm.sf(2.0), rel=1e-6)
    assert steady.p_below(0) == pytest.approx(stats.norm.cdf(2.0), rel=1e-6)
    assert steady.interval(0.9) == pytest.approx(stats.norm.interval(0.9, 0.2, 0.1), rel=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.1, 0.05, 1e-6])
@pytest.mark.parametrize("error", [0.0, 0.05])
def test_a_p_value_is_the_level_whose_limit_meets_the_bound(level, error):
    found = difference([5.1, 5.3, 5.0, 5.2], 5.0, error)
    low, high = found.interval(1 - 2 * level)
    assert found.p_below(high) == pytest.approx(level, rel=1e-9)
    assert found.p_above(low) == pytest.approx(level, rel=1e-9)
    assert found.p_above(high) == pytest.approx(1 - level, rel=1e-9)


def test_a_plan_of_seeds_has_the_power_that_it_promises():
    n = paired_seeds(-0.5, 1.0)
    random = np.random.default_rng(2)
    draws = random.normal(-0.5, 1.0, (4000, n))
    rejected = (stats.ttest_1samp(draws, 0, axis=1, alternative="less").pvalue <= 0.05).mean()
    assert 0.78 <= rejected <= 0.84
    fewer = random.normal(-0.5, 1.0, (4000, n - 2))
    assert (stats.ttest_1samp(fewer, 0, axis=1, alternative="less").pvalue <= 0.05).mean() < 0.8


@pytest.mark.parametrize(("truth", "error", "verdict"), [(0.05, 0.05, "reproduced"), (0.45, 0.05, "contradicted")])
def test_a_plan_for_equivalence_has_the_power_that_it_promises(truth, error, verdict):
    n, random, draws = equivalence_seeds(truth, 0.15, error, 0.3), np.random.default_rng(5), 2000

    def decided(seeds):
        found = [difference(list(random.normal(5 + truth, 0.15, seeds)), 5.0, error) for _ in range(draws)]
        return sum(equivalent(one, 0.3).decide() == verdict for one in found) / draws

    assert n > 3
    assert decided(n) >= 0.77  # a true 80% of 2,000 falls below once in 1,000
    assert decided(n - 1) < 0.83


def test_no_number_of_seeds_makes_up_for_an_imprecise_reference():
    assert equivalence_seeds(0.0, 0.1, 0.2, 0.3) is None


def test_one_of_several_statements_is_paid_for_by_their_number():
    parts = [PValues(0.02, 0.9), PValues(0.5, 0.3)]
    assert any_of(parts) == PValues(0.04, 0.9)
    assert every(parts) == PValues(0.5, 0.6)


def test_all_of_several_statements_need_all_of_them():
    parts = [lower(difference(values)) for values in ([-1.0, -1.1, -0.9], [1.0, 1.1, 0.9])]
    assert every(parts).decide() == "contradicted"
    assert every(parts[:1]).decide() == "reproduced"
