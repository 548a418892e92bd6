"""Verdicts that keep their error rates while seeds are added: levels, simulations, what is shown, the suite."""

import numpy as np
import pytest
from scipy import stats
from suite_data import TINY, choice, record, tiny_folder

from tractbench.cli import looks as until
from tractbench.pipeline.suite_cells import wanted_cells
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.judge import judge
from tractbench.results.paired import improvement, sign_flip
from tractbench.results.sequential import looked, shares, spent
from tractbench.results.statistics import difference, equivalent, lower
from tractbench.results.store import Store

LOOKS = (5, 10, 20)


def test_the_level_is_spent_with_the_cube_of_the_seeds():
    assert shares(LOOKS) == pytest.approx([1 / 64, 7 / 64, 7 / 8])
    assert [spent(LOOKS, seeds) for seeds in (None, *LOOKS)] == pytest.approx([0, 1 / 64, 1 / 8, 1])


def test_one_look_is_the_fixed_test_to_the_digit():
    values = list(np.random.default_rng(0).normal(-0.3, 1, 9))
    fixed = difference(values)
    assert lower(looked([fixed], [9])) == lower(fixed)
    assert equivalent(looked([fixed], [9]), 0.5) == equivalent(fixed, 0.5)


def test_a_p_value_is_the_level_at_which_a_look_would_have_decided_and_never_grows():
    values = np.random.default_rng(1).normal(-0.4, 1, 20)
    own = [stats.ttest_1samp(values[:n], 0, alternative="less").pvalue for n in LOOKS]
    found = [lower(looked([difference(list(values[:n])) for n in LOOKS[:k]], LOOKS)).holds for k in (1, 2, 3)]
    scaled = [min(1.0, p / share) for p, share in zip(own, shares(LOOKS), strict=True)]
    assert found == pytest.approx([min(scaled[:k]) for k in (1, 2, 3)])


def adding(random, mean, draws, looks=LOOKS):
    """p values at each look, [draws, looks], of so many one-sided t tests against 0."""
    values = random.normal(mean, 1, (draws, looks[-1]))
    return np.stack([stats.ttest_1samp(values[:, :n], 0, axis=1, alternative="less").pvalue for n in looks], axis=1)


@pytest.mark.parametrize("level", [0.05, 0.05 / 9])
@pytest.mark.parametrize("looks", [LOOKS, (5, 10), (5, 8, 12, 20), tuple(range(5, 13))])
def test_adding_seeds_until_something_is_decided_errs_no_more_often_than_the_level(looks, level):
    own = adding(np.random.default_rng(2), 0.0, 40_000, looks)
    decided = (own / np.array(shares(looks)) <= level).any(axis=1).mean()
    assert decided <= level + 3 * (level / 40_000) ** 0.5
    if looks == LOOKS:  # what it is needed for
        assert (own <= level).any(axis=1).mean() > 1.5 * level


@pytest.mark.parametrize(("effect", "power"), [(0.45, 0.62), (0.57, 0.79), (0.66, 0.88)])
def test_power_is_at_most_a_tenth_below_the_fixed_test_of_as_many_seeds(effect, power):
    own = adding(np.random.default_rng(3), -effect, 10_000)
    fixed = (own[:, -1] <= 0.05).mean()
    assert fixed == pytest.approx(power, abs=0.02)
    assert (own / np.array(shares(LOOKS)) <= 0.05).any(axis=1).mean() >= 0.95 * fixed


# Claims of a table


CLAIMS = """
[[claim]]
id = "equal"
text = "The two are about the same."
test = "equal"
left = "tract/1"
right = "edm/1"
margin = 0.1
margin_reason = "so"
source = "us"
"""
SEQUENTIAL = (TINY + CLAIMS).replace('"0-1"', '"0-4"\nlooks = 20', 1)


@pytest.fixture
def table():
    return choice(SEQUENTIAL).tables[0]


def judged(table, scores, seeds):
    given = {cell.id: Evidence() for cell in table.cells.values()}
    given |= {f"tiny/{ref}": Evidence(quoted=dict(enumerate(np.exp(v[:seeds])))) for ref, v in scores.items()}
    return {verdict.id: verdict for verdict in judge({"tiny": table}, given)}


def stopped(table, random, effect):
    """Verdicts of whoever adds seeds until both claims are decided, or to the last look."""
    shared = random.normal(0, 0.3, 20)
    scores = {ref: shared + random.normal(mean, 0.07, 20) for ref, mean in effect.items()}
    for seeds in LOOKS:
        found = judged(table, scores, seeds)
        if all(verdict.verdict != "inconclusive" for verdict in found.values()):
            break
    return found["tiny/two-steps"].verdict, found["tiny/equal"].verdict


@pytest.mark.parametrize(("edm", "wrong"), [(0.1, "reproduced"), (0.0999, "contradicted")])
def test_verdicts_of_both_kinds_keep_their_levels_over_all_claims(table, edm, wrong):
    """Both claims lie at their edge: "lower" errs in either direction, "equal" in the one that is false there."""
    random, draws = np.random.default_rng(4), 150
    found = [stopped(table, random, {"tract/1": 0.0, "tract/2": 0.0, "edm/1": edm}) for _ in range(draws)]
    errors = sum(one == wrong or other == wrong for one, other in found) / draws
    assert errors <= 0.11  # a true 5% of 150 exceeds 11% once in 500


def test_a_verdict_says_its_look_its_levels_and_that_seeds_between_looks_decide_nothing(table):
    random = np.random.default_rng(5)
    scores = {ref: random.normal(0, 0.2, 20) for ref in ("tract/1", "tract/2", "edm/1")}
    first = judged(table, scores, 3)["tiny/two-steps"]
    assert (first.looks.taken, first.looks.next, first.further_seeds) == (None, 5, 2)
    assert str(first.looks) == "no look yet; the first is at 5 seeds; the 3 seeds decide nothing"
    at, between = (judged(table, scores, seeds)["tiny/two-steps"] for seeds in (5, 7))
    assert (at.looks.taken, at.looks.next, at.further_seeds, between.further_seeds) == (5, 10, 5, 3)
    assert (at.p, at.p_against) == (between.p, between.p_against)
    assert between.n == 7
    assert str(between.looks) == (
        "look 1 of 3, at 5 seeds, 0.08% of the level of 5% spent, 4.92% left; the next is at 10 seeds; "
        "the 2 seeds since then decide nothing"
    )
    last = judged(table, scores, 20)["tiny/two-steps"]
    assert (last.verdict, last.looks.next, last.further_seeds, last.looks.left) == ("inconclusive", None, None, 0)


def test_what_a_look_decided_stays_decided(table):
    better = np.r_[np.full(5, -1.0), np.full(15, 2.0)] + np.random.default_rng(6).normal(0, 0.01, 20)
    scores = {"tract/1": np.zeros(20), "tract/2": better, "edm/1": np.random.default_rng(7).normal(0, 1, 20)}
    found = [judged(table, scores, seeds)["tiny/two-steps"] for seeds in (4, 5, 8, 20)]
    assert [verdict.verdict for verdict in found] == ["inconclusive", *["reproduced"] * 3]
    assert found[1].looks.next is None


@pytest.mark.parametrize(
    ("written", "looks"),
    [("20", (5, 10, 20)), ("30", (5, 10, 20, 30)), ("4", (4,)), ("[20]", (20,)), ('"5-7"', (5, 6, 7))],
)
def test_looks_are_listed_or_doubled_up_to_a_largest_number(written, looks):
    table = choice(SEQUENTIAL.replace("looks = 20", f"looks = {written}", 1)).tables[0]
    assert table.looks_of() == looks
    assert table.first_seeds(7) == tuple(range(7))


def test_a_claims_own_looks_come_first():
    table = choice(SEQUENTIAL.replace('left = "tract/2"', 'left = "tract/2"\nlooks = [6, 12]', 1)).tables[0]
    assert [table.looks_of(claim) for claim in table.claims] == [(6, 12), LOOKS]


# Beside the t test


def test_a_sign_flip_test_is_scipys_exact_one_and_cannot_go_below_its_least():
    for n in (2, 5, 8):
        values = np.random.default_rng(n).normal(-0.3, 1, n)
        theirs = stats.permutation_test(
            (values,), lambda x, axis: x.sum(axis), permutation_type="samples", alternative="less", n_resamples=np.inf
        )
        assert sign_flip(values) == pytest.approx(theirs.pvalue, rel=1e-12)
    assert sign_flip([-1.0] * 5) == 1 / 32
    assert sign_flip([-1.0, -2.0, 0.5] * 8) == pytest.approx(1 - sign_flip([1.0, 2.0, -0.5] * 8), abs=1e-3)
    assert sign_flip([]) is sign_flip([1.0] * 41) is None


def test_the_probability_of_improvement_counts_pairs():
    assert improvement([1.0, 2.0], [2.0, 3.0]) == (3 + 0.5) / 4
    ours, theirs = np.random.default_rng(8).normal(0, 1, (2, 9))
    assert improvement(list(ours), list(theirs)) == pytest.approx(stats.mannwhitneyu(theirs, ours).statistic / 81)
    assert improvement([], [1.0]) is None


def test_they_stand_beside_the_t_test_and_say_what_is_least(table):
    found = judged(table, {"tract/1": np.zeros(5), "tract/2": -np.arange(1.0, 6), "edm/1": np.ones(5)}, 5)
    (pair,) = found["tiny/two-steps"].compared
    assert (pair.sign_flip, pair.sign_flip_against, pair.improvement) == (1 / 32, 1.0, 1.0)
    assert pair.beside() == "sign-flip p 0.031 (with 5 seeds at least 1/32), P(left lower) 1.00"


# The suite


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    store.make()
    return store


def fill(store, asked, effect):
    """Record the runs of a choice: the two-step student scores lower by ``effect``, and all by chance."""
    for one in wanted_cells(asked)[0]:
        config = one.cell.config
        chance = np.random.default_rng(config.seed * 10 + config.nfe).normal(0, 0.3)
        score = float(np.exp(chance - effect * (config.nfe == 2) + 0.7 * (config.method == "tract_edm")))
        made = record(one.cell, store)
        store.write(made.model_copy(update={"metrics": {"fd_pixel": made.metrics["fd_pixel"].of([score])}}))


@pytest.mark.parametrize(("effect", "seeds"), [(3.0, [5]), (0.8, [5, 10]), (0.0, [5, 10, 20])])
def test_look_after_look_is_made_until_a_claim_is_decided(store, effect, seeds):
    asked = choice(SEQUENTIAL, only=("claim=two-steps",))
    made = []

    def make(following):
        made.append(sorted({one.cell.config.seed for one in wanted_cells(following)[0]}))
        assert {ref for one in wanted_cells(following)[0] for ref in one.refs} == {"tiny/tract/1", "tiny/tract/2"}
        fill(store, following, effect)
        return 0

    assert until.make_until_decided(asked, tiny_folder(SEQUENTIAL), store, make, as_json=False) == 0
    assert made == [list(range(number)) for number in seeds]


def test_a_suite_that_fails_or_changes_nothing_ends_it(store, capsys):
    asked, folder = choice(SEQUENTIAL), tiny_folder(SEQUENTIAL)
    calls = []
    assert until.make_until_decided(asked, folder, store, lambda following: calls.append(1) or 1, as_json=True) == 1
    assert until.make_until_decided(asked, folder, store, lambda following: calls.append(0) or 0, as_json=True) == 0
    assert calls == [1, 0]
    assert '"undecided": {"tiny/two-steps": 5, "tiny/equal": 5}' in capsys.readouterr().out


def test_the_command_names_the_runs_of_the_next_look(store, tractbench):
    words = ("suite", "--table", "tiny", "--tables", tiny_folder(SEQUENTIAL), "--runs", store.root, "--until-decided")
    planned = tractbench(*words, "--dry-run", "--json").json
    assert len(planned["runs"]) == 3 * 5  # cells of the two claims, seeds of the first look
    assert tractbench(*words, "--seeds", "0-9").code == 2
    Store(store.root).make()
    tiny_folder()
    assert "declares no looks" in tractbench(*words, "--dry-run").err
