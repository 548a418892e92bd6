"""Equivalence in units of the spread: its level at the limit, its closed forms, and what it needs to speak."""

import math

import numpy as np
import pytest
from scipy import stats

from tractbench.results.repeatability import LIMIT, shift
from tractbench.results.statistics import ALPHA


def test_the_limit_is_what_two_single_results_differ_by_at_most_in_95_percent():
    assert stats.norm.cdf(LIMIT / math.sqrt(2)) - stats.norm.cdf(-LIMIT / math.sqrt(2)) == pytest.approx(0.95, abs=1e-4)


def test_the_shift_has_students_t_and_its_interval():
    first, second = [1.0, 1.3, 0.9], [2.0, 2.2, 1.7, 2.4]
    found, known = shift(first, second), stats.ttest_ind(first, second)
    interval = known.confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high))
    t = abs(known.statistic)
    limit = LIMIT / math.sqrt(1 / 3 + 1 / 4)
    assert found.within.holds == pytest.approx(stats.nct.cdf(t, 5, limit) - stats.nct.cdf(-t, 5, limit))
    assert found.within.holds + found.within.fails == pytest.approx(1)


@pytest.mark.parametrize(("first", "second"), [(1, 5), (5, 5), (3, 20)])
def test_at_the_limit_both_errors_are_five_percent(first, second):
    random, draws = np.random.default_rng(first), 2000
    shifts = [
        shift(random.normal(LIMIT, 1, first).tolist(), random.normal(0, 1, second).tolist()) for _ in range(draws)
    ]
    for errors in ([s.within.holds <= ALPHA for s in shifts], [s.within.fails <= ALPHA for s in shifts]):
        assert np.mean(errors) == pytest.approx(ALPHA, abs=4 * math.sqrt(ALPHA * (1 - ALPHA) / draws))


def test_without_a_shift_five_seeds_against_five_nearly_always_show_it_and_never_the_contrary():
    random = np.random.default_rng(0)
    found = [shift(random.normal(0, 1, 5).tolist(), random.normal(0, 1, 5).tolist()).within for _ in range(500)]
    assert np.mean([p.holds <= ALPHA for p in found]) > 0.9
    assert not any(p.fails <= ALPHA for p in found)


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([], [1.0, 2.0]), ([2.0, 2.0], [2.0, 2.0])])
def test_without_spread_nothing_is_said(first, second):
    assert shift(first, second) is None
