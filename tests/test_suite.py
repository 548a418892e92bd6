import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from suite_data import TINY, Here, choice, made, pretend, record, tiny_folder

from tractbench.claims.loading import load_tables
from tractbench.errors import ConfigError, RunFailedError, StoreError
from tractbench.pipeline.suite import DEATHS
from tractbench.pipeline.suite_cells import Choice, wanted_cells
from tractbench.pipeline.suite_order import deal, ordered
from tractbench.pipeline.suite_status import suites
from tractbench.results.store import Store

ALL = 8
"""Runs of the tiny table: two of DDIM, and of three students two training seeds each; the last row adds none."""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", create=True)


def labels(suite, *statuses):
    return {entry.wanted.label for entry in suite.of(*statuses)}


# --- which runs


def test_a_run_that_two_cells_share_is_wanted_once_and_what_trains_nothing_has_one_seed():
    cells, unmet = wanted_cells(choice())
    assert (len(cells), unmet) == (ALL, [])
    assert len({one.id for one in cells}) == ALL
    by_refs = Counter(one.refs for one in cells)
    assert by_refs["tiny/tract/1", "tiny/again/1"] == 2
    assert by_refs["tiny/ddim/1",] == 1
    assert [one.cell.config.seed for one in cells] == sorted(one.cell.config.seed for one in cells)


@pytest.mark.parametrize(
    ("only", "refs"),
    [
        (("row=tract*",), {"tiny/tract/1", "tiny/tract/2"}),
        (("row=tract*", "nfe=1"), {"tiny/tract/1"}),
        (("nfe=2", "nfe=4"), {"tiny/ddim/2", "tiny/tract/2"}),
        (("claim=two-*",), {"tiny/tract/1", "tiny/tract/2"}),
        (("method=tract_edm",), {"tiny/edm/1"}),
        (("cell=again/1",), {"tiny/again/1"}),
    ],
)
def test_cells_are_chosen_by_what_they_are(only, refs):
    assert {ref for one in wanted_cells(choice(only=only))[0] for ref in one.refs} == refs


@pytest.mark.parametrize("only", ["rows=tract", "tract", "row=nothing"])
def test_a_choice_of_nothing_is_refused(only):
    with pytest.raises(ConfigError, match=r"--only|no cell of tiny fits"):
        wanted_cells(choice(only=(only,)))


def test_another_tier_brings_its_own_budget_and_another_seed_its_own_runs():
    table = load_tables()["digits"]
    small = wanted_cells(Choice((table,), only=("cell=tract/1",), seeds=(7,)))[0]
    assert [(one.cell.config.seed, one.cell.config.budget) for one in small] == [(7, 512 << 10)]
    smoke = wanted_cells(Choice((table,), tier="smoke"))[0]
    assert {one.cell.config.budget for one in smoke} == {0, 8 << 10}
    assert {one.cell.config.tier for one in smoke} == {"smoke"}


def test_data_that_are_not_here_are_named_and_the_others_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    tables = load_tables()
    cells, unmet = wanted_cells(Choice((tables["cifar10"], tables["digits"]), seeds=(0,), only=("nfe=1",)))
    assert {one.cell.config.dataset for one in cells} == {"digits"}
    assert {one.ref for one in unmet} == {cell.id for cell in tables["cifar10"].cells.values() if cell.nfe == 1}
    assert all("data prepare cifar10" in one.reason or "teacher" in one.reason for one in unmet)
    assert {"data cifar10"} <= {need.name for one in unmet for need in one.needs}


# --- their order


def test_what_others_wait_for_comes_first_and_then_seed_by_seed():
    cells = wanted_cells(choice())[0]
    order = ordered(cells)
    assert sorted(one.id for one in order) == sorted(one.id for one in cells)
    openers = order[:2]
    assert {one.ends for one in openers} == {one.ends for one in cells}
    for opener in openers:  # the cheapest of those that wait
        alike = [one for one in cells if one.ends == opener.ends]
        assert opener.cell.config.budget == min(one.cell.config.budget for one in alike)
    assert openers[0].ends == Counter(one.ends for one in cells).most_common(1)[0][0]
    seeds = [one.cell.config.seed for one in order[2:]]
    assert seeds == sorted(seeds)


def test_the_first_run_of_a_shared_student_comes_before_others():
    own = 'settings = { method = "tract_edm", budget = "1K" }\ncell = [{ nfe = 1, settings = { clip_sample = false } }]'
    text = TINY.replace('settings = { method = "tract", budget = "1K" }\ncell = [{ nfe = 1 }]', own)
    order = ordered(wanted_cells(choice(text))[0])
    counts = Counter(one.student for one in order if one.student)
    shared = {student for student, count in counts.items() if count > 1}
    assert len(shared) == 2
    first = [next(i for i, one in enumerate(order) if one.student == student) for student in shared]
    alone = [i for i, one in enumerate(order) if counts[one.student] == 1]
    assert max(first) < min(alone[1:])  # the first of all opens the other teacher


def test_no_two_jobs_are_dealt_what_makes_the_same_and_together_they_get_all():
    cells = ordered(wanted_cells(choice())[0])
    one = deal(cells, set(), set(), 2, 2)
    making = {key for cell in one for key in cell.shared}
    other = deal([cell for cell in cells if cell not in one], set(), making, 2, 1)
    assert one
    assert other
    assert not making & {key for cell in other for key in cell.shared}
    assert deal(cells, set(), {key for cell in cells for key in cell.shared}, 2, 1) == []
    everything = {key for cell in cells for key in cell.shared}
    first = deal(cells, everything, set(), 2, 2)
    second = deal([cell for cell in cells if cell not in first], everything, set(), 2, 1)
    assert abs(len(first) - len(second)) <= 2
    assert not {cell.id for cell in first} & {cell.id for cell in second}
    alone = deal(cells[:3], everything, set(), 2, 1, held=3)  # another job has its part: the rest is this one's
    assert alone == [cell for cell in cells[:3] if cell.ends in everything]


# --- making them


def test_a_suite_makes_what_is_lacking_each_once_and_a_second_one_nothing(store, monkeypatch):
    runs = pretend(monkeypatch)
    suite = made(store, choice(), jobs=2)
    assert len(suite.of("done")) == len(runs) == len(set(runs)) == ALL
    engine = Here()
    assert len(made(store, choice(), engine).of("done")) == ALL
    assert engine.batches == []


def test_a_job_begins_no_further_run_after_its_time_and_others_get_them(store, monkeypatch):
    runs, engine = pretend(monkeypatch), Here()
    made(store, choice(), engine, pack_seconds=0.0)
    assert len(engine.batches) == ALL
    assert len(set(runs)) == ALL


def test_a_failed_run_stops_no_other_and_is_made_again_only_on_demand(store, monkeypatch):
    failing = []

    def fail(cell, store, runtime):
        if cell.config.method == "tract_edm" and cell.config.seed == 1:
            failing.append(cell.id)
            raise RunFailedError("diverged: loss is nan")

    pretend(monkeypatch, fail)
    suite = made(store, choice())
    assert labels(suite, "failed") == {"tiny/edm/1 seed 1"}
    assert suite.of("failed")[0].reason == "diverged: loss is nan"
    assert len(suite.of("done")) == ALL - 1
    again = made(store, choice())
    assert (labels(again, "failed"), again.failures, len(failing)) == ({"tiny/edm/1 seed 1"}, 0, 1)
    made(store, choice(), retry_failed=True)
    assert len(failing) == 2


def test_after_so_many_failures_nothing_more_is_begun(store, monkeypatch):
    def fail(cell, store, runtime):
        raise RunFailedError("diverged")

    pretend(monkeypatch, fail)
    suite = made(store, choice(), max_failures=3)
    assert suite.failures == 3
    assert len(suite.of("waiting")) == ALL - 3
    assert "3 runs failed" in suite.problem


def test_a_full_disk_stops_the_suite_and_the_same_command_goes_on(store, monkeypatch):
    full = [True]

    def write(cell, store, runtime):
        if full and cell.config.nfe == 2:
            raise StoreError("cannot write here: No space left on device")

    pretend(monkeypatch, write)
    suite = made(store, choice())
    assert "No space left" in suite.problem
    assert not suite.of("failed")
    assert suite.of("waiting")
    full.clear()
    assert len(made(store, choice()).of("done")) == ALL


def test_a_run_that_takes_its_process_with_it_is_tried_so_often_and_then_failed(store, monkeypatch):
    pretend(monkeypatch)
    bad = next(one.id for one in wanted_cells(choice())[0] if one.label == "tiny/tract/2 seed 1")
    engine = Here(dies=lambda batch: batch.items[0].id == bad)
    suite = made(store, choice(), engine, pack_seconds=0.0)
    assert labels(suite, "failed") == {"tiny/tract/2 seed 1"}
    assert "ended without a word: Killed" in suite.of("failed")[0].reason
    assert sum(batch.items[0].id == bad for batch in engine.batches) == DEATHS
    assert len(suite.of("done")) == ALL - 1


def test_what_another_process_makes_is_left_to_it_and_looked_for_later(store, monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr("tractbench.pipeline.suite.LOOK_EVERY", 0.0)
    cells = {one.label: one.cell for one in wanted_cells(choice())[0]}
    first, other = cells["tiny/tract/1 seed 0"], cells["tiny/edm/1 seed 0"]
    store.make()
    inside = [store.lock_cell(store.cell_folder(first.config, first.id)),
              store.lock_student(other.student, "somebody", print, lambda: False)]  # fmt: skip
    for lock in inside:
        lock.__enter__()
    seen = []

    def watch(suite):
        elsewhere = labels(suite, "elsewhere")
        seen.append(elsewhere)
        if len(suite.of("done")) == ALL - 2 and inside:
            store.write(record(first, store))
            while inside:
                inside.pop().__exit__(None, None, None)

    suite = made(store, choice(), watch=watch)
    assert {"tiny/tract/1 seed 0", "tiny/edm/1 seed 0"} in seen
    assert len(suite.of("done")) == ALL


def test_a_stop_leaves_what_is_left_waiting(store, monkeypatch):
    runs = pretend(monkeypatch)
    suite = made(store, choice(), stop=lambda: len(runs) > 0, pack_seconds=0.0)
    assert (len(runs), len(suite.of("waiting"))) == (1, ALL - 1)
    assert not suite.of("failed")


# --- the command


def test_the_command_says_what_it_would_do_does_it_and_says_how_it_stands(tractbench, monkeypatch):
    tables = tiny_folder()
    command = ("suite", "--table", "tiny", "--tables", tables)
    dry = tractbench(*command, "--dry-run", "--json").json
    assert (dry["done"], len(dry["runs"]), dry["counted"], dry["unknown"], dry["missing"]) == (0, ALL, ALL, 0, [])
    assert not Path("runs").exists()

    made_up = pretend(monkeypatch)
    monkeypatch.setattr("tractbench.pipeline.suite_engine.LocalEngine", lambda folder, jobs, gpus: Here())
    lines = tractbench(*command, "--json")
    events = [json.loads(line) for line in lines.out.splitlines()]
    assert (lines.code, len(made_up)) == (0, ALL)
    assert sum(event.get("status") == "done" for event in events) == ALL
    assert events[-1] == {"event": "summary", "exit": 0, "counts": {"done": ALL, "impossible": 0}, "failed": [],
                          "impossible": [], "problem": ""}  # fmt: skip

    Path("runs/cells").rename("kept")  # as a run of a third of the table
    for folder in sorted(Path("kept").iterdir())[:2]:
        folder.mkdir(exist_ok=True)
        (Path("runs/cells") / folder.name).parent.mkdir(exist_ok=True)
        folder.rename(Path("runs/cells") / folder.name)
    part = tractbench(*command, "--dry-run").out
    assert f"2 runs are there, {ALL - 2} would be made" in part
    status = tractbench("suite", "--status", "--json").json
    assert (status["counts"]["done"], status["alive"], status["pid"]) == (ALL, False, os.getpid())


def test_costs_are_those_of_similar_runs(tractbench, store):
    cells = {one.label: one.cell for one in wanted_cells(choice())[0]}
    store.write(record(cells["tiny/tract/1 seed 0"], store))
    found = tractbench("suite", "--table", "tiny", "--tables", "tables", "--dry-run", "--json", "--runs", store.root)
    seconds = {run["run"]: run["seconds"] for run in found.json["runs"]}
    assert seconds["tiny/tract/1 seed 1"] == pytest.approx(1024 / 1000 + 20 / 10)
    assert seconds["tiny/ddim/1"] == pytest.approx(20 / 10)  # trains nothing
    assert seconds["tiny/edm/1 seed 0"] > 0  # nobody has trained one: by its operations
    assert (found.json["counted"], found.json["unknown"]) == (2, 0)


def test_exit_statuses_of_failures_and_of_what_cannot_be_made(tractbench, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tractbench.pipeline.suite_engine.LocalEngine", lambda folder, jobs, gpus: Here())
    absent = tractbench("suite", "--table", "cifar10", "--only", "nfe=1")
    assert absent.code == 1
    assert "cannot be made here: cifar10/" in absent.out

    def fail(cell, store, runtime):
        raise RunFailedError("diverged")

    pretend(monkeypatch, fail)
    failed = tractbench("suite", "--table", "tiny", "--tables", tiny_folder(), "--only", "cell=ddim/1")
    assert failed.code == 1
    assert failed.out.splitlines()[-2:] == ["1 runs: 1 failed", "failed: tiny/ddim/1: diverged"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no table given"),
        (("--table", "digit"), "did you mean 'digits'"),
        (("--table", "digits", "--seeds", "x"), "seeds 'x'"),
        (("--table", "digits", "--executor", "pbs"), "unknown executor 'pbs'"),
        (("--table", "digits", "--executor", "slurm"), "no sbatch here"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tractbench, monkeypatch, tmp_path, words, said):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = tractbench("suite", *words)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert said in found.err


def test_suites_of_a_store_are_told_apart_by_whether_they_are_there(store):
    assert suites(store) == []
    with store.lock_suite("one") as folder:
        (folder / "status.json").write_text('{"command": "x", "host": "h", "pid": 1, "started": "2026"}')
        assert [status.alive for status in suites(store)] == [True]
    assert [status.alive for status in suites(store)] == [False]


def test_two_machines_with_half_of_the_seeds_each_make_one_report(tractbench, monkeypatch):
    tables = tiny_folder()
    pretend(monkeypatch)
    monkeypatch.setattr("tractbench.pipeline.suite_engine.LocalEngine", lambda folder, jobs, gpus: Here())
    for seed, runs in (("0-2", "cluster"), ("3-5", "laptop")):
        done = tractbench("suite", "--table", "tiny", "--tables", tables, "--seeds", seed, "--runs", runs, "-q")
        assert done.code == 0
    assert tractbench("store", "merge", "cluster", "laptop", "--into", "runs", "-q").code == 0
    found = tractbench("verify", "--tables", tables, "--json").json["verdicts"][0]
    assert (found["n"], found["verdict"]) == (6, "reproduced")
    one = tractbench("verify", "--tables", tables, "--runs", "cluster", "--json").json["verdicts"][0]
    assert (one["n"], one["verdict"]) == (3, "inconclusive")
    assert tractbench("report", "--tables", tables, "--table", "tiny", "--format", "markdown").code == 0
    again = tractbench("suite", "--table", "tiny", "--tables", tables, "--seeds", "0-5", "--dry-run", "--json").json
    assert (again["done"], again["runs"]) == (2 + 6 * 3, [])


def test_progress_is_written_at_most_once_a_second_and_tells_images(tmp_path, monkeypatch):
    from tractbench.pipeline import suite_progress
    from tractbench.pipeline.suite_progress import FileProgress, Reporter, read_report

    clock = [100.0]
    monkeypatch.setattr(suite_progress.time, "monotonic", lambda: clock[0])
    path = tmp_path / "job.json"
    written = []
    original = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (written.append(clock[0]), original(self, target))[1])
    with FileProgress(Reporter(path, 5.0), "run", 128).task("training", 40, "step", 10) as task:
        for _ in range(30):
            clock[0] += 0.25
            task.advance(1, "loss 1")
    assert all(after - before >= 1.0 for before, after in pairwise(written))
    found = read_report(path)
    assert found.current.per_second == pytest.approx(4.0)
    assert found.current.images_per_second == pytest.approx(4.0 * 128)
    assert found.current.seconds_left == pytest.approx((40 - found.current.done) / 4)
    assert found.closed
