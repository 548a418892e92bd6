"""Verdicts by simulation on planted truth, and which runs may stand behind them."""

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tractbench.claims.loading import load_tables, shipped_tables
from tractbench.claims.table import Table
from tractbench.config.resolve import resolve
from tractbench.reports.evidence import Evidence, gather
from tractbench.reports.verdicts.claims import judge_claims
from tractbench.reports.verdicts.judge import judge, verdicts
from tractbench.results.record import Metric, Record, RecordedConfig
from tractbench.results.store import Store

TABLES = {name: table.model_copy(update={"looks": ()}) for name, table in load_tables().items()}  # one look
DIGITS = {"digits": TABLES["digits"]}
SEEDS = range(5)


def evidence(scores, tables=TABLES):
    """What a store would hold: one score for each training seed of each cell."""
    return {
        cell.id: Evidence(quoted=dict(enumerate(scores[cell.id]))) if cell.id in scores else Evidence()
        for table in tables.values()
        for cell in table.cells.values()
    }


def drawn(random, cells, log_mean=lambda cell: 0.0, shared=0.1, own=0.05, n=5):
    """Log-normal scores whose training seeds cells share in part, as runs of one seed do."""
    seeds = random.normal(0, shared, n)
    return {cell.id: np.exp(log_mean(cell) + seeds + random.normal(0, own, n)) for cell in cells}


EQUAL = {"imagenet64/tract-edm-96m/1": 0.04}  # at the edge of the one margin that a claim has


@pytest.mark.parametrize("tier", ["small", "paper"])
@pytest.mark.parametrize("true", [None, "tract-beats-btd-1step"])
def test_decisions_on_planted_truth_err_in_at_most_one_report_of_twenty(tier, true):
    """Every claim but a true one lies at its edge, where both decisions are errors, over all claims of the tier.

    The true one holds by far, so that Holm's correction has fewer left to correct for.
    """
    tables = {name: table for name, table in TABLES.items() if table.tier == tier}
    better = {f"{name}/{ref}" for name, t in tables.items() for c in t.claims if c.id == true for ref in c.left}
    effects = dict.fromkeys(better, -3.0) | EQUAL
    others = [c for t in tables.values() for c in t.cells.values()]
    random, draws = np.random.default_rng(0), 300
    wrong = {"reproduced": 0, "contradicted": 0}
    for _ in range(draws):
        scores = drawn(random, others, lambda cell: effects.get(cell.id, 0.0))
        found = judge_claims(tables, evidence(scores, tables)).values()
        claims = [v for v in found if not touches(v, better)]
        right = [v.verdict for v in found if v.id.partition("/")[2] == true]
        assert set(right) <= {"reproduced"}
        for error in wrong:
            wrong[error] += any(verdict.verdict == error for verdict in claims)
    assert max(wrong.values()) / draws <= 0.09  # a true 5% of 300 exceeds 9% once in 500


def touches(verdict, cells):
    return any({pair.left, pair.right} & cells for pair in verdict.compared)


def planted(random, better, worse):
    scores = drawn(random, [DIGITS["digits"].cells[ref] for ref in (better, worse)])
    scores[f"digits/{better}"] = scores[f"digits/{better}"] * 0.5
    return {verdict.id: verdict for verdict in judge(DIGITS, evidence(scores))}


def test_a_large_difference_is_seen_in_its_direction():
    random = np.random.default_rng(2)
    claim = "digits/tract-beats-btd-1step"
    for_it, against = planted(random, "tract/1", "btd/1")[claim], planted(random, "btd/1", "tract/1")[claim]
    assert (for_it.verdict, against.verdict) == ("reproduced", "contradicted")
    assert for_it.interval[0] < for_it.estimate < for_it.interval[1] < 1 < against.interval[0]
    assert (for_it.n, for_it.tier, for_it.protocol) == (5, "small", "raw")


def test_the_comparison_that_decides_comes_first_and_is_the_weakest():
    cells = {"one-phase/1": 5.0, "tract/1": 1.0, "three-phases/1": 1.5, "four-phases/1": 1.2}
    random = np.random.default_rng(6)
    scores = {f"digits/{ref}": mean * np.exp(random.normal(0, 0.02, 5)) for ref, mean in cells.items()}
    claim = next(v for v in judge(DIGITS, evidence(scores)) if v.id == "digits/two-phases-best")
    assert claim.verdict == "reproduced"
    assert claim.compared[0].right == "digits/four-phases/1"
    assert claim.estimate == claim.compared[0].ratio == max(pair.ratio for pair in claim.compared)
    assert len(claim.compared) == 3


def test_holms_correction_counts_claims_that_were_not_run():
    """Alone in its table's tier a p value of 0.03 decides; among nine claims it does not."""
    logs = np.array([-0.3, -0.05, -0.15, -0.02, -0.25])
    scores = {"digits/tract/1": np.exp(logs), "digits/btd/1": np.ones(5)}
    claim = next(v for v in judge(DIGITS, evidence(scores)) if v.id == "digits/tract-beats-btd-1step")
    alone = DIGITS["digits"].model_copy(update={"claims": DIGITS["digits"].claims[:1]})
    only = judge({"digits": alone}, evidence(scores))[0]
    assert only.verdict == "reproduced"
    assert claim.p == pytest.approx(9 * only.p)
    assert claim.verdict == "inconclusive"
    assert claim.further_seeds >= 1


def test_four_seeds_decide_no_claim():
    scores = {"digits/tract/1": np.exp([-1.0, -1.1, -0.9, -1.05]), "digits/btd/1": np.ones(4)}
    claim = next(v for v in judge(DIGITS, evidence(scores)) if v.id == "digits/tract-beats-btd-1step")
    assert (claim.verdict, claim.n) == ("inconclusive", 4)
    assert claim.further_seeds == 1


def claim_on(scores, name):
    found = judge(DIGITS, evidence({f"digits/{ref}": values for ref, values in scores.items()}))
    return next(v for v in found if v.id == f"digits/{name}")


def test_an_interior_optimum_beats_both_ends():
    random = np.random.default_rng(7)

    def optimum(first, inner, other, last):
        refs = ("mu-i-0.9/1", "mu-i-0.99/1", "mu-i-0.995/1", "mu-i-0.999/1")
        means = dict(zip(refs, (first, inner, other, last), strict=True))
        scores = {ref: mean * np.exp(random.normal(0, 0.01, 6)) for ref, mean in means.items()}
        return claim_on(scores, "inference-ema-has-an-optimum").verdict

    assert optimum(3.0, 2.0, 5.0, 3.0) == optimum(3.0, 5.0, 2.0, 3.0) == "reproduced"
    assert optimum(1.0, 2.0, 2.5, 3.0) == optimum(3.0, 2.5, 2.0, 1.0) == "contradicted"  # the best is an end


def test_a_plan_for_a_claim_of_several_comparisons_decides_as_often_as_it_promises():
    random, effect, std = np.random.default_rng(8), 0.12, 0.15
    refs = ("one-phase/1", "three-phases/1", "four-phases/1")

    def scores(n, exact=False):
        logs = random.normal(0, std, (3, n))
        if exact:  # the sample has just these moments, so that the plan is made for the truth
            logs = (logs - logs.mean(1, keepdims=True)) / logs.std(1, ddof=1, keepdims=True) * std
        return {"tract/1": np.ones(n)} | {ref: np.exp(effect + row) for ref, row in zip(refs, logs, strict=True)}

    planned = claim_on(scores(6, exact=True), "two-phases-best")
    assert planned.verdict == "inconclusive"
    n, draws = 6 + planned.further_seeds, 200
    decided = sum(claim_on(scores(n), "two-phases-best").verdict == "reproduced" for _ in range(draws)) / draws
    assert 0.7 <= decided <= 0.97  # a true 80% of 200 falls below 70% once in 2,000


def test_a_plan_against_a_claim_of_several_alternatives_decides_as_often_as_it_promises():
    random, effect, std = np.random.default_rng(9), 0.12, 0.15
    inner = ("mu-i-0.99/1", "mu-i-0.995/1")

    def scores(n, exact=False):
        logs = random.normal(0, std, (2, n))
        if exact:
            logs = (logs - logs.mean(1, keepdims=True)) / logs.std(1, ddof=1, keepdims=True) * std
        found = {ref: np.exp(effect + row) for ref, row in zip(inner, logs, strict=True)}
        return {"mu-i-0.9/1": np.ones(n), "mu-i-0.999/1": np.full(n, 2.0)} | found  # the best is the first end

    planned = claim_on(scores(6, exact=True), "inference-ema-has-an-optimum")
    assert planned.verdict == "inconclusive"
    n, draws = 6 + planned.further_seeds, 200
    decided = [claim_on(scores(n), "inference-ema-has-an-optimum").verdict for _ in range(draws)]
    assert 0.7 <= decided.count("contradicted") / draws <= 0.97


def test_a_plan_faces_the_level_that_is_left_after_holms_correction():
    logs = np.array([-0.3, -0.05, -0.15, -0.02, -0.25])
    scores = {"digits/tract/1": np.exp(logs), "digits/btd/1": np.ones(5)}
    among_nine = next(v for v in judge(DIGITS, evidence(scores)) if v.id == "digits/tract-beats-btd-1step")
    found = stats.ttest_1samp(logs, 0, alternative="less")
    assert among_nine.p == pytest.approx(9 * found.pvalue)
    n = 5 + among_nine.further_seeds
    shift = abs(logs.mean()) / logs.std(ddof=1)
    power = [stats.nct.sf(stats.t.isf(0.05 / 9, m - 1), m - 1, shift * m**0.5) for m in (n - 1, n)]
    assert power[0] < 0.8 <= power[1]


def test_a_score_that_no_training_seed_made_stands_against_all_of_them(real):
    ddim, tract = DIGITS["digits"].cells["ddim/1"], DIGITS["digits"].cells["tract/1"]
    claim = DIGITS["digits"].claims[0].model_copy(update={"left": ("tract/1",), "right": ("ddim/1",)})
    table = DIGITS["digits"].model_copy(update={"claims": (claim,)})
    logs = [-0.50, -0.52, -0.48, -0.51, -0.49]
    records = [record(real, tract, seed, 2.0 * math.exp(log)) for seed, log in enumerate(logs)]
    records.append(
        real.model_copy(
            update={"config": RecordedConfig.of(ddim.config), "metrics": {"fd_pixel": Metric.of([2.0] * 3)}}
        )
    )
    (found,) = [v for v in verdicts(records, {"digits": table}) if v.kind == "claim"]
    assert (found.verdict, found.n) == ("reproduced", 5)
    assert found.estimate == pytest.approx(math.exp(-0.5) * 1.001, rel=1e-3)


def test_two_samplers_that_train_nothing_leave_nothing_to_repeat(real):
    claim = DIGITS["digits"].claims[0].model_copy(update={"left": ("ddim/2",), "right": ("ddim/1",)})
    table = DIGITS["digits"].model_copy(update={"claims": (claim,)})
    records = [
        real.model_copy(update={"config": RecordedConfig.of(DIGITS["digits"].cells[ref].config), "identity": ref,
                                "metrics": {"fd_pixel": Metric.of([score] * 3)}})
        for ref, score in (("ddim/2", 1.0), ("ddim/1", 2.0))
    ]  # fmt: skip
    (found,) = [v for v in verdicts(records, {"digits": table}) if v.kind == "claim"]
    assert (found.verdict, found.p, found.further_seeds) == ("inconclusive", None, None)
    assert "nothing to repeat" in found.notes[0]


def test_seeds_that_failed_leave_a_claim_open(real):
    left, right = (DIGITS["digits"].cells[ref] for ref in ("tract/1", "btd/1"))
    records = [record(real, left, seed, 1.0 + seed / 100) for seed in range(6)]
    records += [record(real, right, seed, 2.0 + seed / 70) for seed in range(6)]
    name = "digits/tract-beats-btd-1step"
    assert next(v for v in verdicts(records, DIGITS) if v.id == name).verdict == "reproduced"
    records.append(record(real, left, 6, 9.0, status="failed", reason="loss is nan", metrics={}))
    found = next(v for v in verdicts(records, DIGITS) if v.id == name)
    assert (found.verdict, found.p, found.further_seeds) == ("inconclusive", None, None)
    assert "tract/1: training seed 6: failed: loss is nan" in found.notes


@pytest.mark.parametrize("key", ["data", "reference", "teacher", "data_source", "method_source"])
def test_cells_made_with_other_things_are_not_compared(real, key):
    axis = ("tract/1", "one-phase/1", "three-phases/1", "four-phases/1")
    records = []
    for number, ref in enumerate(axis):
        changed = real.hashes | ({key: "another"} if number == 0 else {})
        records += [record(real, DIGITS["digits"].cells[ref], s, 1 + number + s / 90, hashes=changed) for s in SEEDS]
    found = next(v for v in verdicts(records, DIGITS) if v.id == "digits/two-phases-best")
    assert (found.verdict, found.further_seeds, found.n) == ("inconclusive", None, 0)
    assert "tract/1 and one-phase/1 were not made with the same" in found.notes[0]


def test_scores_beyond_reason_are_no_crash():
    huge = claim_on({"tract/1": [1e-300, 1e300], "btd/1": [1.0, 1.0]}, "tract-beats-btd-1step")
    assert (huge.verdict, huge.interval) == ("inconclusive", None)
    rounding = {"tract/1": [1 + k * 2.2e-16 for k in range(6)], "btd/1": np.ones(6)}
    same = claim_on(rounding, "tract-beats-btd-1step")
    assert (same.verdict, same.further_seeds) == ("inconclusive", None)


# Figures


FIGURE = "cifar10/tract-96m/1"  # 5.02 as published, margin 5% of it


def figure(values, cell=FIGURE):
    tables = {name: table for name, table in TABLES.items() if cell.startswith(f"{name}/")}
    return next(v for v in judge(tables, evidence({cell: values}, tables)) if v.id == cell)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([5.0, 5.05, 5.02, 4.99, 5.04], "reproduced"),
        ([6.0, 6.1, 5.9, 6.05, 5.95], "contradicted"),
        ([5.2, 5.4, 5.3, 5.35, 5.25], "inconclusive"),
        ([5.02], "inconclusive"),
        ([], "not run"),
    ],
)
def test_a_published_figure(values, verdict):
    found = figure(values)
    assert found.verdict == verdict
    assert (found.published, found.margin, found.protocol) == (5.02, 0.05 * 5.02, "tract")
    if values:
        assert found.difference == pytest.approx(np.mean(values) - 5.02)


def test_a_figure_of_another_budget_is_never_decided():
    assert figure([9.1, 9.12, 9.13, 9.11, 9.12], "cifar10/btd-96m/1").verdict == "budget differs"


def test_figures_err_in_at_most_one_of_twenty():
    random, wrong = np.random.default_rng(3), {"reproduced": 0, "contradicted": 0}
    cell = TABLES["cifar10"].cells["tract-96m/1"]
    for truth, error in ((cell.margin, "reproduced"), (0.99 * cell.margin, "contradicted")):
        for _ in range(600):
            offset = truth - random.normal(0, cell.error)  # the figure has an error of its own
            values = cell.published.value + offset + random.normal(0, 0.05, 5)
            wrong[error] += figure(list(values)).verdict == error
    assert max(wrong.values()) / 600 <= 0.075  # a true 5% exceeds 7.5% of 600 once in 300


# Which runs count


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A record of a real run, to plant scores in."""
    from tractbench.datasets.digits import Digits
    from tractbench.pipeline.run import Runtime, run
    from tractbench.progress import Progress

    config, method, _ = resolve(
        {"method": "ddim", "dataset": "digits", "tier": "smoke", "grid_steps": 16, "samples": 100}
    )
    store = Store(tmp_path_factory.mktemp("runs"), create=True)
    return run(config, method, Digits(), store, Progress(), Runtime()).record


def record(real, cell, seed, score, **changes):
    config = resolve({**cell.settings, "seed": seed})[0]
    per_seed = [score * (1 + 0.001 * i) for i in range(len(config.sampling_seeds))]
    made = {"identity": f"{cell.ref} {seed} {changes}", "config": config, "metrics": {cell.metric: Metric.of(per_seed)}}
    made |= changes
    return real.model_copy(update=made | {"config": RecordedConfig.of(made["config"])})


def test_only_runs_that_are_the_cells_count(real):
    cell = DIGITS["digits"].cells["tract/1"]
    other = resolve({**cell.settings, "seed": 1, "budget": "32K"})[0]
    records = [
        record(real, cell, 0, 2.0),
        record(real, cell, 1, 9.0, training_version=1),
        record(real, cell, 2, 9.0, status="failed", reason="loss is nan", metrics={}),
        record(real, cell, 3, 9.0, deviations=("data: other",)),
        record(real, cell, 4, 0.0),
        record(real, cell, 1, 9.0, config=other),
    ]
    found = gather(records, DIGITS)[cell.id]
    assert list(found.quoted) == [0]
    assert found.quoted[0] == pytest.approx(2.002)
    assert found.budgets == (32768,)
    assert [text.partition(":")[0] for text in found.left_out] == [f"training seed {seed}" for seed in (1, 2, 3, 4)]


def test_runs_of_another_teacher_are_not_put_together(real):
    cell = DIGITS["digits"].cells["tract/1"]
    old = record(real, cell, 0, 9.0, hashes=real.hashes | {"teacher": "another"})
    found = gather([old, record(real, cell, 1, 2.0)], DIGITS)[cell.id]
    assert list(found.quoted) == [1]
    assert "other files than the latest" in found.left_out[0]


def test_a_store_with_another_budget_only_says_so(real):
    cell = DIGITS["digits"].cells["tract/1"]
    config = resolve({**cell.settings, "budget": "96K"})[0]
    found = {v.id: v.verdict for v in verdicts([record(real, cell, 0, 2.0, config=config)], DIGITS)}
    assert found["digits/tract-beats-btd-1step"] == "not run"  # btd has no run at all
    both = [record(real, DIGITS["digits"].cells[ref], 0, 2.0, config=resolve(
        {**DIGITS["digits"].cells[ref].settings, "budget": "96K"})[0]) for ref in ("tract/1", "btd/1")]  # fmt: skip
    claim = next(v for v in verdicts(both, DIGITS) if v.id == "digits/tract-beats-btd-1step")
    assert claim.verdict == "budget differs"
    assert "run only with a budget of 96K" in " ".join(claim.notes)


def test_a_budget_of_another_row_is_no_reason(real):
    long = [record(real, DIGITS["digits"].cells["tract/1"], seed, 2.0) for seed in SEEDS]
    found = {v.id: v for v in verdicts(long, DIGITS)}
    assert found["digits/longer-training-helps"].verdict == "not run"
    assert "tract-64k/1: not run" in found["digits/longer-training-helps"].notes
    ablation = TABLES["cifar10-ablations"].cells["mu-i-0.99999/1"]  # what TRACT-256M has, at 96M
    other = real.model_copy(
        update={"config": RecordedConfig.of(ablation.config), "metrics": {"fid": Metric.of([5.0] * 5)}}
    )
    assert {v.id: v.verdict for v in verdicts([other], TABLES)}["cifar10/tract-256m/1"] == "not run"


def test_a_run_made_again_counts_once(real):
    cell = DIGITS["digits"].cells["tract/1"]
    chunked = resolve({**cell.settings, "chunk": 250})[0]
    records = [record(real, cell, 0, 2.0), record(real, cell, 0, 3.0, config=chunked)]
    found = gather(records, DIGITS)[cell.id]
    assert found.quoted[0] == pytest.approx(3.003)
    assert [r.config.chunk for r in found.records] == [250]
    assert found.left_out == ("training seed 0: made again later",)


def test_scores_of_two_students_are_never_put_together(real):
    cell = DIGITS["digits"].cells["tract/1"]
    fewer = cell.config.model_copy(update={"sampling_seeds": (0, 1)})
    again = {"hashes": real.hashes | {"student": "trained elsewhere"}, "metrics": {"fd_pixel": Metric.of([2.0, 2.0])}}
    found = gather([record(real, cell, 0, 9.0), record(real, cell, 0, 2.0, config=fewer, **again)], DIGITS)[cell.id]
    assert found.scores == {0: {0: 2.0, 1: 2.0}}
    assert found.left_out == ("training seed 0: made again later",)


def test_other_sampling_seeds_add_to_a_training_seed_and_fewer_are_told(real):
    cell = DIGITS["digits"].cells["tract/1"]
    more = cell.config.model_copy(update={"sampling_seeds": (3, 4)})
    fewer = cell.config.model_copy(update={"seed": 1, "sampling_seeds": (0,)})
    first, second = (
        record(real, cell, 0, 2.0),
        record(real, cell, 0, 3.0, config=more, metrics={"fd_pixel": Metric.of([3.0] * 2)}),
    )
    third = record(real, cell, 1, 2.0, config=fewer, metrics={"fd_pixel": Metric.of([2.0])})
    found = gather([first, second, third], DIGITS)[cell.id]
    assert {seed: sorted(by_seed) for seed, by_seed in found.scores.items()} == {0: [0, 1, 2, 3, 4], 1: [0]}
    assert found.remarks == ("1 of 2 training seeds scored with fewer sampling seeds than the 3 asked for",)


def test_a_minimum_is_of_the_sampling_seeds_that_were_asked_for(real):
    text = (shipped_tables() / "cifar10.toml").read_text().replace('protocol = "tract"', 'protocol = "edm"')
    table = Table.model_validate(
        {**tomllib.loads(text.replace('"0-4"\n\n[sources]', '"0-2"\n\n[sources]')), "name": "edm"}
    )
    cell = table.cells["tract-96m/1"]
    assert cell.config.sampling_seeds == (0, 1, 2)
    more = cell.config.model_copy(update={"sampling_seeds": (0, 1, 2, 3)})
    runs = [record(real, cell, seed, 5.0, metrics={"fid": Metric.of([5.0 + seed, 5.2, 5.4])}) for seed in (0, 1)] + [
        record(real, cell, 2, 5.0, config=more, metrics={"fid": Metric.of([4.0] * 4)})
    ]
    found = gather(runs, {"edm": table})[cell.id]
    assert found.quoted == {0: 5.0, 1: 5.2}
    assert (found.mean, found.training_std) == (pytest.approx(5.1), pytest.approx(0.2 / 2**0.5))


# The command


def planted_store(tmp_path, real, ratio, cells=("tract/1", "btd/1")):
    store = Store(tmp_path / "runs", create=True)
    random = np.random.default_rng(4)
    for seed in SEEDS:
        for ref, factor in zip(cells, (ratio, 1.0), strict=True):
            score = 2.0 * factor * math.exp(random.normal(0, 0.02))
            made = record(
                real, DIGITS["digits"].cells[ref], seed, score, folder=f"cells/{ref.replace('/', '-')}-{seed}"
            )
            store.write(Record.model_validate(made.model_dump()))
    return store


@pytest.mark.parametrize(("ratio", "arguments", "code"), [
    (0.5, (), 0),
    (0.5, ("--strict",), 3),
    (2.0, (), 1),
    (2.0, ("--strict",), 1),
    (1.0, (), 0),
])  # fmt: skip
def test_exit_codes(tractbench, tmp_path, real, ratio, arguments, code):
    planted_store(tmp_path, real, ratio)
    assert tractbench("verify", "--tier", "small", *arguments).code == code


def test_json_has_every_verdict(tractbench, tmp_path, real):
    planted_store(tmp_path, real, 0.5)
    found = tractbench("verify", "--json").json["verdicts"]
    assert {"id", "kind", "tier", "protocol", "verdict", "estimate", "interval", "n", "p", "published"} <= set(found[0])
    published = sum(c.published is not None for t in TABLES.values() for c in t.cells.values())
    assert len(found) == published + sum(len(t.claims) for t in TABLES.values())
    claim = next(v for v in found if v["id"] == "digits/tract-beats-btd-1step")
    assert claim["verdict"] == "reproduced"
    assert claim["estimate"] == pytest.approx(0.5, rel=0.05)


def test_reading_and_bad_names(tractbench, tmp_path, real):
    planted_store(tmp_path, real, 0.5)
    out = tractbench("verify", "--table", "digits").out
    assert "reproduced     digits/tract-beats-btd-1step" in out
    assert "not run        digits/two-phases-best" in out
    assert "cifar10" not in out
    assert "did you mean 'digits'" in tractbench("verify", "--table", "digit").err
    assert tractbench("verify", "--tier", "smal").code == 2
    nothing = tractbench("verify", "--tier", "small", "--table", "cifar10", "--strict")
    assert (nothing.code, nothing.err.count("\n")) == (2, 1)
    assert "tier 'paper'" in nothing.err
    empty = tractbench("verify", "--table", "digits", "--strict", "--runs", Path("none"))
    assert (empty.code, empty.err.count("\n")) == (3, 1)
    assert not Path("none").exists()
    (tmp_path / "mine").mkdir()
    assert "no tables" in tractbench("verify", "--tables", tmp_path / "mine").err
