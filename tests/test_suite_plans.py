"""Plans that were registered before their runs."""

import json
from pathlib import Path

import pytest
from suite_data import TINY, choice, record, tiny_folder

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.io.seals import sealed, unsealed
from tractbench.pipeline.suite_cells import wanted_cells
from tractbench.pipeline.suite_plan import make_plans
from tractbench.results.plans import register, registered_plans, registered_text
from tractbench.results.store import Store

SEEDS = tuple(range(6))
PUBLISHED = 'published = { value = 3.0, error = 0.1, source = "us" }, margin = { share = 0.2, reason = "so" }'
FIGURE = TINY.replace("cell = [{ nfe = 1 }, { nfe = 2 }]", f"cell = [{{ nfe = 1, {PUBLISHED} }}, {{ nfe = 2 }}]", 1)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    store.make()
    return store


def planned(store, asked, looks=(), at="2025-12-31T00:00:00+00:00"):
    """Register a plan, and set the clock back to when it was."""
    (plan,) = make_plans(asked, looks)
    found = register(store.root, plan)
    path = store.root / "plans" / f"{plan.sha256}.json"
    path.write_text(registered_text(found.model_copy(update={"registered": at})))
    return plan.sha256


def fill(store, asked, seeds):
    for one in wanted_cells(asked)[0]:
        if one.cell.config.seed in seeds:
            store.write(record(one.cell, store))


def plans_of(tractbench, store):
    found = tractbench("verify", "--tables", "tables", "--runs", store.root, "--json").json["verdicts"]
    return {verdict["id"]: verdict["plan"] and verdict["plan"]["sha256"] for verdict in found}


def test_verdicts_rest_on_a_plan_that_was_there_before_the_first_of_its_runs(tractbench, store):
    asked = choice(FIGURE, seeds=SEEDS)
    sha = planned(store, asked)
    fill(store, asked, SEEDS)
    assert plans_of(tractbench, store) == {"tiny/ddim/1": sha, "tiny/two-steps": sha}
    said = f"planned beforehand: plan {sha[:8]} of 2025-12-31 00:00"
    words = ("--tables", "tables", "--runs", store.root)
    assert said in tractbench("verify", *words).out
    assert said in tractbench("explain", "tiny/two-steps", *words).out
    assert said in tractbench("explain", "tiny/ddim/1", *words).out
    assert said in tractbench("report", "--table", "tiny", "--format", "markdown", *words).out


def test_a_plan_of_runs_that_were_there_before_is_none(tractbench, store):
    asked = choice(seeds=SEEDS)
    planned(store, asked, at="2026-01-01T00:00:00+00:00")  # the very second of the runs
    fill(store, asked, SEEDS)
    assert plans_of(tractbench, store) == {"tiny/two-steps": None}


@pytest.mark.parametrize(("looks", "rests"), [((), False), ((5,), True), ((3,), False)])
def test_verdicts_are_read_at_the_looks_of_a_plan_only(tractbench, store, looks, rests):
    asked = choice(seeds=SEEDS)
    sha = planned(store, asked, looks)
    fill(store, asked, SEEDS[:5])
    assert plans_of(tractbench, store) == {"tiny/two-steps": sha if rests else None}


def test_a_rule_that_was_changed_after_the_plan_rests_on_none(tractbench, store):
    asked = choice(FIGURE, seeds=SEEDS)
    sha = planned(store, asked)
    fill(store, asked, SEEDS)
    tiny_folder(FIGURE.replace("share = 0.2", "share = 0.3"))
    assert plans_of(tractbench, store) == {"tiny/ddim/1": None, "tiny/two-steps": sha}


def test_registering_again_keeps_the_first_time_and_what_was_changed_is_refused(tractbench, store):
    words = ("suite", "--table", "tiny", "--tables", tiny_folder(), "--register", "--runs", store.root, "--json")
    first = tractbench(*words).json
    path = store.root / "plans" / f"{first['sha256']}.json"
    written = unsealed(json.loads(path.read_text())) | {"registered": "2026-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(sealed(written)))
    assert tractbench(*words).json["registered"] == "2026-01-01T00:00:00+00:00"
    path.write_text(path.read_text().replace("2026-01-01", "2025-01-01"))
    assert "was changed after it was registered" in registered_plans(store.root)[1][0]
    plan = written
    plan["plan"]["looks"] = [1, 2]
    path.write_text(json.dumps(plan))
    assert "was changed after it was registered" in registered_plans(store.root)[1][0]
    fill(store, choice(), (0, 1))
    assert "was changed after it was registered" in tractbench("verify", "--tables", "tables", "--runs", store.root).err
    with pytest.raises(DamagedFileError):
        register(store.root, make_plans(choice())[0])


def test_a_plan_needs_looks_among_its_seeds_and_the_tables_own_tier():
    with pytest.raises(ConfigError, match="from 1 to 6"):
        make_plans(choice(seeds=SEEDS), (7,))
    with pytest.raises(ConfigError, match="--tier small"):
        make_plans(choice(tier="small"))
    assert not Path("runs").exists()
