"""Measured results that ship: how their files are made, and how they stand beside the user's own runs."""

import csv
import io
import math
from pathlib import Path

import pytest
from report_data import record

import tractbench as package
import tractbench.tables
from tractbench.claims.loading import load_tables
from tractbench.config.fields import RunConfig
from tractbench.config.identity import SCORING_VERSION, TRAINING_VERSION
from tractbench.errors import DamagedFileError
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.scorer import make_scorer
from tractbench.pipeline.cell import identify
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.samples import score_samples
from tractbench.progress import Progress
from tractbench.registry import load_dataset, load_method
from tractbench.reports.document import Selection, compose
from tractbench.reports.findings import find
from tractbench.reports.machines import machines
from tractbench.reports.render import render_html, render_markdown
from tractbench.results.measured import shipped_records
from tractbench.results.record import Metric
from tractbench.results.ship import gather_shipment, write_shipment
from tractbench.results.store import Store
from tractbench.teachers.load import load_teacher
from tractbench.training.numerics import sampled_in

TABLES = load_tables()
DIGITS = TABLES["digits"]
TRACT = [[2.08, 2.09], [2.10, 2.11], [2.07, 2.08], [2.09, 2.10], [2.11, 2.12]]
BTD = [[0.41, 0.42], [0.40, 0.41], [0.43, 0.44], [0.42, 0.43], [0.41, 0.40]]
SHIPPED = {"ddim/1": [[16.21, 16.20, 16.22]], "tract/1": TRACT, "btd/1": BTD, "tract/2": [[1.4, 1.41], [1.45, 1.46]]}


def store(name, scores, **changes):
    """Made-up runs: scores by ``row/nfe``, training seed and sampling seed; a cell's seed has one name everywhere."""
    made, refs = Store(Path(name), create=True), list(DIGITS.cells)
    for ref, by_seed in scores.items():
        for seed, by_sampling in enumerate(by_seed):
            made.write(record(DIGITS.cells[ref], 1000 * refs.index(ref) + seed, seed, by_sampling, **changes))
    return made


@pytest.fixture
def shipped(measured):
    """Measured results as they ship, of a machine of their own."""
    environment = {"processor": "Fast CPU", "threads": 4, "device": "cpu", "python": "3", "packages": {"torch": "9.9"}}
    environment["packages"] |= {"tractbench": "0"}
    write_shipment(gather_shipment([store("maker", SHIPPED, environment=environment)]), measured / "digits.jsonl")
    return shipped_records()


def sheet(document, anchor):
    (found,) = [one for one in document.every_sheet if one.id == anchor]
    titles = [column.title for column in found.columns]
    return found, [dict(zip(titles, row, strict=True)) for row in found.rows]


# --- files


def test_a_shipped_file_has_every_record_sealed_in_an_order_that_stores_do_not_decide(tmp_path):
    runs = store("runs", SHIPPED)
    parts = [Store(Path(name), create=True) for name in ("one", "other")]
    for number, one in enumerate(reversed(runs.records())):
        parts[number % 2].write(one)
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    write_shipment(gather_shipment([runs]), paths[0])
    write_shipment(gather_shipment([*parts, runs]), paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found = {one.identity: one for one in shipped_records(tmp_path)}
    for one in runs.records():
        kept = found.pop(one.identity)
        fields = ("config", "metrics", "hashes", "created", "training", "student", "distillation_errors", "seconds")
        assert all(getattr(kept, name) == getattr(one, name) for name in fields)
    assert found == {}
    damaged = paths[0].read_text().replace("16.21", "16.12", 1)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.jsonl").write_text(damaged)
    with pytest.raises(DamagedFileError, match=r"a\.jsonl:\d+ is damaged .*--no-measured"):
        shipped_records(tmp_path / "damaged")


def test_what_is_one_machines_own_does_not_ship(tmp_path):
    environment = {
        "processor": "Fast CPU",
        "threads": 3,
        "packages": {"torch": "2.4"},
        "platform": "Linux-6.8.0-myhost-cloud-x86_64-with-glibc2.36",
        "host": "myhost",
        "gpu": {"names": ["H100"], "driver": "1"},
    }
    command = "tractbench run --runs /home/me/runs --method ddim --nfe 1 --plugin=/home/me/plugin.py"
    runs = store("runs", {"ddim/1": [[16.2]]}, environment=environment, command=command)
    write_shipment(gather_shipment([runs]), tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    assert "myhost" not in text
    assert "/home" not in text
    (one,) = shipped_records(tmp_path)
    assert one.command == "tractbench run --method ddim --nfe 1"
    kept = {"processor": "Fast CPU", "threads": 3, "packages": {"torch": "2.4"}, "gpu": environment["gpu"]}
    assert one.environment == kept | {"platform": "Linux x86_64 glibc2.36"}


TRACT_1 = record(DIGITS.cells["tract/1"], 9999, 3, [2.0])
OTHER_SCORES = {"metrics": {"fd_pixel": Metric.of([9.0])}}
BAD = {
    "failed": ({"status": "failed", "reason": "loss is nan", "metrics": {}}, "failed: loss is nan"),
    "interrupted": ({"status": "interrupted", "reason": "Ctrl-C", "metrics": {}}, "interrupted: Ctrl-C"),
    "old training": ({"training_version": TRAINING_VERSION - 1}, f"not {TRAINING_VERSION}; make it again"),
    "old scoring": ({"scoring_version": SCORING_VERSION - 1}, f"not {SCORING_VERSION}; make it again"),
    "deviates": ({"deviations": ("10 samples instead of 50,000",)}, "10 samples instead of 50,000"),
    "not finite": ({"metrics": {"fd_pixel": Metric.of([math.inf])}}, "fd_pixel is not finite"),
    "partial": ({"metrics": {"fd_pixel": Metric.of([2.0, 3.0])}}, "fd_pixel lacks sampling seeds"),
    "a path": ({"basis": {"statistics": "in /data/stats.npz"}}, "names /data/stats.npz of the machine"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_whole_result_is_refused_and_nothing_is_written(tractbench, kind):
    changes, reason = BAD[kind]
    runs = store("runs", {"ddim/1": [[16.2]]})
    runs.write(TRACT_1.model_copy(update=changes))
    done = tractbench("store", "ship", "runs", "--into", "out.jsonl")
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith(f"tractbench: refused {Path('runs', TRACT_1.folder)}: ")
    assert reason in line
    assert not Path("out.jsonl").exists()


def test_runs_that_never_ended_damaged_records_and_two_scores_of_one_run_are_refused():
    runs, other = store("runs", {"ddim/1": [[16.2]]}), store("other", {})
    other.write(runs.records()[0].model_copy(update=OTHER_SCORES))
    assert [line.partition(": ")[2] for line in gather_shipment([runs, other]).refused] == [
        "the same run is there with other scores, in another folder or in the file"
    ]
    runs.log(runs.root / "cells" / "begun", "started")
    assert gather_shipment([runs]).refused == (f"{runs.root / 'cells/begun'}: it never ended",)
    (runs.root / "cells" / "begun" / "record.json").write_text("{}")
    (line,) = gather_shipment([runs]).refused
    assert "damaged" in line


def test_shipping_says_what_it_wrote_and_names_what_it_cannot_write(tractbench):
    store("runs", SHIPPED)
    done = tractbench("store", "ship", "runs", "--into", "tables/measured/digits.jsonl")
    assert (done.code, done.out) == (0, "tables/measured/digits.jsonl: 13 runs\n")
    assert len(Path("tables/measured/digits.jsonl").read_text().splitlines()) == 13
    whole = Path("tables/measured/digits.jsonl").read_bytes()
    for number, one in enumerate(Store(Path("runs")).records()):
        Store(Path(f"part-{number % 2}"), create=True).write(one)
    for part in ("part-1", "part-0", "part-0"):
        assert tractbench("store", "ship", part, "--into", "parts.jsonl", "--add").code == 0
    assert Path("parts.jsonl").read_bytes() == whole
    assert tractbench("store", "ship", "part-0", "--into", "parts.jsonl").out == "parts.jsonl: 7 runs\n"
    wrong = tractbench("store", "ship", "runs", "--into", "digits.json")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "digits.json: measured results are read from *.jsonl" in wrong.err
    store("nothing", {}).make()
    none = tractbench("store", "ship", "nothing", "--into", "digits.jsonl")
    assert (none.code, "there are no runs to ship" in none.err) == (2, True)


# --- beside the user's runs


@pytest.mark.usefixtures("shipped")
def test_a_report_in_an_empty_folder_shows_the_shipped_results_as_such(tractbench):
    done = tractbench("report", "--format", "markdown")
    assert done.code == 0
    assert "no results in runs yet: shown is what was measured with tractbench by its developers" in done.err
    lines = [line for line in done.out.splitlines() if line.startswith("| TRACT-512K | 1 |")]
    assert lines
    assert all("| shipped" in line and "2.095 ± 0.016" in line for line in lines)
    assert "Fast CPU, 4 threads, tractbench 0, torch 9.9, training version" in done.out
    assert "✗ contradicted" in done.out
    assert not Path("runs").exists()
    page = tractbench("report")
    assert page.code == 0
    html = Path("report.html").read_text()
    assert "13 runs shipped with tractbench" in html
    assert '<span class="contradicted">✗ contradicted</span> One-step TRACT has a lower distance' in html
    assert html.index('<ul class="claims">') < html.index("<nav")
    assert "○ not run</span>" not in html
    without = tractbench("report", "--no-measured")
    assert (without.code, without.err.count("\n")) == (2, 1)
    assert "no results in runs" in without.err


def test_machines_of_one_kind_are_named_once_with_the_commits_that_ran_there(shipped):
    def by(record, processor, commit):
        environment = record.environment | {"processor": processor, "code": {"commit": commit * 40}}
        return record.model_copy(update={"environment": environment})

    first, second, third, *_ = shipped
    kinds = machines([by(first, "A", "1"), by(second, "A", "2"), by(third, "B", "2"), by(first, "A", "1")])
    assert "commits 111111111111, 222222222222" in kinds.split("; ")[0]
    assert "commit 222222222222)" in kinds.split("; ")[1]
    assert [kind[0] for kind in kinds.split("; ")] == ["A", "B"]


def test_yours_and_shipped_stand_in_lines_of_their_own_and_are_never_counted_together(shipped):
    mine = store("runs", {"tract/1": [[3.0, 3.0], [3.2, 3.2]]})
    found = compose(mine, TABLES, Selection(), shipped)
    _, rows = sheet(found, "digits-cells")
    tract = [row for row in rows if (row["Method"].text, row["NFE"].text) == ("TRACT-512K", "1")]
    assert [(row["Runs"].text, row["n"].text) for row in tract] == [("yours", "2"), ("shipped", "5")]
    assert [row["FD, pixels, ours"].value for row in tract] == pytest.approx([3.1, 2.095])
    assert [row["On your machine"].text for row in tract] == ["✗ no", "-"]
    (btd,) = [row for row in rows if (row["Method"].text, row["NFE"].text) == ("BTD-512K", "1")]
    assert (btd["Runs"].text, btd["n"].text) == ("shipped", "5")
    (ddim,) = [row for row in rows if (row["Method"].text, row["NFE"].text) == ("DDIM", "2")]
    assert (ddim["Runs"].text, ddim["FD, pixels, ours"].text) == ("-", "not run")
    _, rows = sheet(found, "digits-claims")
    claim = [row for row in rows if row["Claim"].text.startswith("One-step TRACT has a lower")]
    assert [(row["Runs"].text, row["Verdict"].text, row["n"].text) for row in claim] == [
        ("shipped", "✗ contradicted", "5")
    ]
    own = [mark.ours for part in found.chapters[0].order if part.id == "digits-nfe" for mark in part.marks]
    assert own == []  # one place of the user's is nothing to compare
    (chart,) = [part for part in found.chapters[0].order if part.id == "digits-nfe-shipped"]
    assert 3.1 not in [mark.ours for mark in chart.marks]
    assert chart.caption.startswith("Score, shipped runs")


def test_the_users_runs_take_the_place_of_the_verdict(shipped):
    mine = store("runs", {"tract/1": [[1 + 0.01 * k] for k in range(5)], "btd/1": [[2 + 0.01 * k] for k in range(5)]})
    name = "digits/tract-beats-btd-1step"
    found = find(mine.records(), TABLES, shipped=shipped)
    assert [(source, one.verdicts[name].verdict) for source, one in found.sources(name)] == [
        ("yours", "reproduced"),
        ("shipped", "contradicted"),
    ]
    _, rows = sheet(compose(mine, TABLES, Selection(), shipped), "digits-claims")
    claim = [row for row in rows if row["Claim"].text.startswith("One-step TRACT has a lower")]
    assert [row["Verdict"].text for row in claim] == ["✓ reproduced", "✗ contradicted"]
    alone = find(mine.records(), TABLES)
    assert alone.yours.verdicts == found.yours.verdicts


@pytest.mark.usefixtures("shipped")
def test_verify_judges_both_apart_and_ends_as_the_users_runs_do(tractbench):
    done = tractbench("verify", "--table", "digits")
    assert done.code == 0
    assert "contradicted   digits/tract-beats-btd-1step (shipped runs)" in done.out
    assert tractbench("verify", "--table", "digits", "--strict").code == 3
    store("runs", SHIPPED)
    done = tractbench("verify", "--table", "digits")
    assert done.code == 1
    assert "contradicted   digits/tract-beats-btd-1step\n" in done.out
    assert "yes            digits/tract/1\n" in done.out
    assert "reproduced on your machine: yes, to the bit" in done.out
    values = tractbench("verify", "--table", "digits", "--json").json
    assert [v["verdict"] for v in values["verdicts"]] == [v["verdict"] for v in values["shipped"]]
    assert {one["id"]: one["answer"] for one in values["on_your_machine"]} == {
        f"digits/{ref}": "yes" for ref in SHIPPED
    }
    values = tractbench("verify", "--table", "digits", "--json", "--no-measured").json
    assert (values["shipped"], values["on_your_machine"]) == ([], [])


@pytest.mark.usefixtures("shipped")
def test_explain_shows_what_stands_behind_the_shipped_figure(tractbench):
    store("runs", {"tract/1": TRACT[:2]})
    text = tractbench("explain", "digits/tract/1").out
    own, theirs = text.split("digits/tract/1, shipped runs: ")
    assert "n 2" in own
    assert "reproduced on your machine: yes, to the bit" in own
    assert "n 5" in theirs
    assert "made with   processor Fast CPU" in theirs
    assert "comes with tractbench" in theirs
    value = tractbench("explain", "digits/tract/1", "--json").json
    assert (value["n"], value["shipped"]["n"], value["shipped"]["whose"]) == (2, 5, "shipped")
    assert value["on_your_machine"]["same"] == 2
    assert tractbench("explain", "digits/tract/1", "--json", "--no-measured").json["shipped"] is None
    claim = tractbench("explain", "digits/tract-beats-btd-1step").out
    assert "by the shipped runs: contradicted" in claim
    last = Store(Path("maker")).records()[-1]
    assert tractbench("explain", last.identity[:8], "--json").json["identity"] == last.identity


def test_results_load_with_their_origin(shipped):
    with pytest.warns(UserWarning, match="all rows are results that come with tractbench"):
        fresh = package.load_results()
    assert (set(fresh["origin"]), len(fresh)) == ({"shipped"}, len(shipped))
    store("runs", {"tract/1": [[3.0, 3.0], [3.2, 3.2]]})
    both = package.load_results()
    assert both.groupby("origin").size().to_dict() == {"yours": 2, "shipped": len(shipped)}
    means = both[both["nfe"] == 1].groupby(["origin", "method"])["fd_pixel"].mean()
    assert means["yours", "tract"] == pytest.approx(3.1)
    assert means["shipped", "tract"] == pytest.approx(2.095)
    assert len(package.load_results(measured=False)) == 2
    scores = package.load_results(by="score")
    assert (scores["origin"] == "yours").sum() == 4


def test_every_format_tells_the_sources_apart(tractbench, shipped):
    mine = store("runs", {"tract/1": [[2.10, 2.11], [2.08, 2.10]]})
    found = compose(mine, TABLES, Selection(table="digits"), shipped)
    page = render_html(found, "tractbench report")
    assert 'id="behind-digits-tract-1-shipped"' in page
    assert page.count('href="#behind-digits-tract-1-shipped"') >= 1
    assert "Shipped results reproduced on your machine: 1 yes" in page
    assert "| yours" in render_markdown(found)
    rows = list(csv.DictReader(io.StringIO(tractbench("report", "--table", "digits", "--format", "csv").out)))
    tract = [row for row in rows if row["id"] == "digits/tract/1"]
    assert [(row["runs"], row["n"], row["on_your_machine"]) for row in tract] == [
        ("yours", "2", "yes"),
        ("shipped", "5", ""),
    ]
    assert tractbench("report", "--table", "digits", "--format", "latex").code == 0
    tex = Path("report-latex/digits.tex").read_text()
    assert "shipped" in tex
    assert "On your" in tex
    rows = list(csv.DictReader(io.StringIO(tractbench("report", "--format", "csv").out)))
    assert [row["origin"] for row in rows] == ["yours"] * 2 + ["shipped"] * len(shipped)


# --- reproduced on your machine


def repeat(scores, shipped, ref="tract/1", **changes):
    made = store(f"runs-{len(list(Path().glob('runs-*')))}", {ref: scores}, **changes)
    return find(made.records(), TABLES, shipped=shipped).repeats[f"digits/{ref}"]


def test_the_same_seeds_are_the_same_to_the_bit_or_within_the_spread(shipped):
    exact = repeat(TRACT, shipped, environment={})
    assert (exact.answer, exact.same, exact.shared, exact.p) == ("yes", 5, 5, None)
    assert exact.ratio == pytest.approx(1)
    rounded = [[score * (1 + 1e-6) for score in by_seed] for by_seed in TRACT]
    near = repeat(rounded, shipped)
    assert (near.answer, near.same, near.said) == ("yes", 0, "yes, within sampling and hardware spread")
    assert near.p < 1e-3
    far = repeat([[score * 1.2 for score in by_seed] for by_seed in TRACT], shipped)
    assert (far.answer, far.ratio) == ("no", pytest.approx(1.2))
    one = repeat([[2.12, 2.13]], shipped)
    assert (one.answer, one.n, one.shipped) == ("undecided", 1, 5)


def test_a_method_that_trains_nothing_is_repeated_over_sampling_seeds(shipped):
    near = repeat([[16.2100001, 16.2000001, 16.2200001]], shipped, "ddim/1")
    assert (near.answer, near.unit, near.n, near.shipped) == ("yes", "sampling seed", 3, 3)
    assert repeat([[16.9, 16.91, 16.92]], shipped, "ddim/1").answer == "no"


def test_other_files_are_not_compared_and_the_same_machine_with_other_bits_is_named(shipped):
    hashes = {"teacher": "another", "data": "d", "reference": "r", "student": "s"}
    other = repeat(TRACT, shipped, hashes=hashes)
    assert (other.answer, other.ratio) == ("other files", None)
    strange = repeat([[2.08, 2.0900001], *TRACT[1:]], shipped, environment=shipped[0].environment)
    assert strange.note == "the same kind of machine and versions, and yet other bits"
    assert (strange.same, strange.shared) == (4, 5)


# --- the files that ship

FOLDER = Path(tractbench.tables.__path__[0], "measured")


def test_every_shipped_record_counts_for_a_cell_of_a_table():
    records = shipped_records(FOLDER)
    assert records
    found = find(records, TABLES).yours
    counted = {record.identity for one in found.evidence.values() for record in one.records}
    assert {record.identity for record in records} == counted


def test_two_cells_of_the_shipped_file_are_recomputed():
    """From their recorded settings, within the 1e-3 of a score that rounding may make elsewhere (docs/regress.md)."""
    shipped = [r for r in shipped_records(FOLDER) if (r.config.method, r.config.dataset) == ("ddim", "digits")]
    first = sorted(shipped, key=lambda one: one.config.nfe)[:2]
    assert [one.config.nfe for one in first] == [1, 2]
    for kept in first:
        config = RunConfig.model_validate(kept.config.as_written())
        cell = identify(config, load_method("ddim").model_validate(config.options), load_dataset("digits"))
        assert cell.id == kept.identity
        teacher = load_teacher(config.teacher, cell.dataset, cell.process)
        scorer = make_scorer(
            cell.dataset,
            load_protocol(config.protocol),
            config.chunk,
            config.samples,
            device="cpu",
            progress=Progress(),
        )
        scorer.prepare()
        made = score_samples(cell, sampled_in(teacher.denoiser, config.precision, "cpu"), scorer, Runtime(), Progress())
        assert made.keys() == kept.metrics.keys()
        for name, metric in kept.metrics.items():
            assert made[name].per_seed == pytest.approx(metric.per_seed, rel=1e-3), name
