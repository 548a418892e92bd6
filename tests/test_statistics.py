"""Statistics of a few training seeds, against scipy and published examples."""

import numpy as np
import pytest
from scipy import stats

from tractbench.results.statistics import difference, equivalent, every, holm, lower, paired_seeds, spread


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
    found = spread({0: {0: 1.0, 1: 3.0}, 1: {0: 5.0, 1: 7.0}})
    assert (found.mean, found.n) == (4.0, 2)
    assert found.training == pytest.approx(8**0.5)
    assert found.sampling == pytest.approx(2**0.5)


@pytest.mark.parametrize(("offset", "wrong"), [(0.3, "reproduced"), (0.0, "contradicted"), (0.29, "contradicted")])
def test_equivalence_errs_in_at_most_one_of_twenty(offset, wrong):
    """On the margin nothing may be called reproduced, within it nothing contradicted, more often than 5%."""
    random = np.random.default_rng(1)
    verdicts = []
    for _ in range(2000):
        published = 5.0 + random.normal(0, 0.05)
        found = difference(list(random.normal(5.0 + offset, 0.1, 5)), published, 0.05)
        verdicts.append(equivalent(found, 0.3).decide())
    # 2,000 draws of a true 5% exceed 6.2% once in 100
    assert verdicts.count(wrong) / 2000 <= 0.062


def test_a_plan_of_seeds_has_the_power_that_it_promises():
    n = paired_seeds(-0.5, 1.0)
    random = np.random.default_rng(2)
    draws = random.normal(-0.5, 1.0, (4000, n))
    rejected = (stats.ttest_1samp(draws, 0, axis=1, alternative="less").pvalue <= 0.05).mean()
    assert 0.78 <= rejected <= 0.84
    fewer = random.normal(-0.5, 1.0, (4000, n - 2))
    assert (stats.ttest_1samp(fewer, 0, axis=1, alternative="less").pvalue <= 0.05).mean() < 0.8


def test_all_of_several_statements_need_all_of_them():
    parts = [lower(difference(values)) for values in ([-1.0, -1.1, -0.9], [1.0, 1.1, 0.9])]
    assert every(parts).decide() == "contradicted"
    assert every(parts[:1]).decide() == "reproduced"
