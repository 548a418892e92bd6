"""The paper's tables as a report: what stands in a cell, in a figure, behind it, and in which order."""

import csv
import io
import json
import math
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from command_lines import flags
from PIL import Image
from report_data import fill, record
from scipy.stats import norm, t

import tractbench as package
from tractbench.claims.loading import load_tables, shipped_tables
from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError, StoreError
from tractbench.reports.chart import Chart, Mark
from tractbench.reports.curves import error_figure, loss_figure
from tractbench.reports.document import Selection, compose
from tractbench.reports.drawing import style
from tractbench.reports.frames import RUN_COLUMNS, SCORE_COLUMNS
from tractbench.reports.render import render_html, render_markdown
from tractbench.reports.sheet import Notes, Sheet, with_interval
from tractbench.reports.table_frame import CELL_COLUMNS
from tractbench.results.record import DistillationError
from tractbench.results.store import Store

TABLES = load_tables()
SCORES = {
    "tract-256m/1": [[4.40, 4.42], [4.48, 4.46], [4.44, 4.44], [4.41, 4.43], [4.47, 4.47]],
    "tract-256m/2": [[3.9, 3.9], [3.95, 3.95], [4.0, 4.0]],
    "btd-96m/1": [[9.1, 9.1], [9.2, 9.2], [9.15, 9.15]],
    "tract-96m/1": [[5.0, 5.0]],
}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    fill(store, TABLES["cifar10"], SCORES)
    return store


def document(store, **selection):
    return compose(store, TABLES, Selection(**selection))


def sheet(document, anchor):
    (found,) = [one for one in document.every_sheet if one.id == anchor]
    return found


def rows(sheet):
    titles = [column.title for column in sheet.columns]
    return [dict(zip(titles, row, strict=True)) for row in sheet.rows]


def chart(document, anchor):
    (found,) = [part for one in document.chapters for part in one.order if part.id == anchor]
    return found


def test_a_cell_has_the_published_figure_ours_the_difference_and_its_interval(store):
    row = next(r for r in rows(sheet(document(store), "cifar10-cells")) if r["Method"].text == "TRACT-256M")
    means = [statistics.fmean(by_sampling) for by_sampling in SCORES["tract-256m/1"]]
    assert row["FID, published"].text == "4.45 ± 0.05"
    assert row["FID, ours"].text == f"{statistics.fmean(means):.3f} ± {statistics.stdev(means):.3f}"
    assert row["n"].text == "5"
    own, printed = t.ppf(0.975, 4) * statistics.stdev(means) / math.sqrt(5), norm.ppf(0.975) * 0.05
    half = math.sqrt(own**2 + printed**2)
    shown = [float(number) for number in re.findall(r"-?[\d.]+", row["Difference, 95%"].text)]
    centre = statistics.fmean(means) - 4.45
    assert shown == pytest.approx([centre, centre - half, centre + half], abs=6e-4)
    assert (row["Verdict"].text, row["Budget"].text, row["CPU-hours"].text) == ("✓ reproduced", "256M", "2")


def test_a_figure_of_another_budget_is_never_judged(store):
    found = document(store)
    table = sheet(found, "cifar10-cells")
    row = next(r for r in rows(table) if r["Method"].text == "BTD-96M" and r["NFE"].text == "1")
    assert row["Verdict"].text == "≠ budget differs"
    notes = " ".join(table.notes[mark] for mark in row["FID, published"].marks)
    assert "progressive distillation's published figure" in notes
    assert "made at another budget" in notes
    assert "same budget" not in notes


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_and_claim_of_a_table_is_shown_once_run_or_not(tmp_path, name):
    found = document(Store(tmp_path / "none", create=True), table=name)
    targets = [entry.target for one in found.every_sheet for row in one.rows for entry in row if entry.target]
    for cell in TABLES[name].cells.values():
        assert f"behind-{re.sub('[^a-z0-9]', '-', cell.id)}" in targets
    text = render_markdown(found)
    for claim in TABLES[name].claims:
        assert text.count(f"| {claim.text} ") == 1
    for cell in TABLES[name].cells.values():
        if cell.published:
            assert f" {cell.published.value:g}" in text.replace("**", " ")
    assert found.verdicts
    assert not found.sheets


def test_the_lowest_score_of_an_nfe_is_marked_published_and_ours(store):
    marked = [
        (row["Method"].text, row["NFE"].text, title)
        for row in rows(sheet(document(store), "cifar10-cells"))
        for title in ("FID, published", "FID, ours")
        if row[title].best
    ]
    ours = [mark for mark in marked if mark[2] == "FID, ours"]
    assert ours == [("TRACT-256M", "1", "FID, ours")]  # two steps ran once, so there is nothing to compare
    assert ("TRACT-EDM-256M", "1", "FID, published") in marked
    assert ("TRACT-256M", "2", "FID, published") in marked


def test_a_run_with_another_budget_is_named_not_used(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    cell = TABLES["digits"].cells["tract/1"]
    short = resolve({**cell.settings, "budget": "128K", "sampling_seeds": (0, 1)})[0]
    store.write(record(cell, 0, 0, [1.0, 1.0], config=short))
    table = sheet(document(store), "digits-cells")
    row = next(r for r in rows(table) if r["Method"].text == "TRACT-512K" and r["NFE"].text == "1")
    assert row["FD, pixels, ours"].text == "not run"
    assert [table.notes[mark] for mark in row["FD, pixels, ours"].marks] == ["run only with a budget of 128K"]


def test_figures_hold_published_and_our_own_points(store):
    found = chart(document(store), "cifar10-nfe")
    read = {(row["line"], row["x"]): row for row in csv.DictReader(io.StringIO(found.csv))}
    ours = read[("TRACT-256M", "1")]
    means = [statistics.fmean(by_sampling) for by_sampling in SCORES["tract-256m/1"]]
    half = t.ppf(0.975, 4) * statistics.stdev(means) / math.sqrt(5)
    assert float(ours["ours"]) == statistics.fmean(means)
    assert [float(ours["ours_low"]), float(ours["ours_high"])] == pytest.approx(
        [statistics.fmean(means) - half, statistics.fmean(means) + half], rel=1e-12
    )
    assert (ours["published"], ours["published_std"], ours["training_seeds"]) == ("4.45", "0.05", "5")
    assert read[("TRACT-EDM-256M", "2")]["ours"] == ""
    for text in ("published 4.45", "not run and published 3.55"):
        assert text in found.alt
    assert found.svg.startswith("<svg")
    drawn = re.findall(r"<text[^>]*>([^<]+)</text>", found.svg)
    assert {"TRACT-256M", "BTD-96M", "published", "ours"} <= set(drawn)
    assert drawn.count("TRACT-256M") == 1


def test_a_figure_with_many_long_names_keeps_its_axes_and_tells_its_lines_apart():
    lines = [f"a user's method number {number} with quite a long name" for number in range(12)]
    marks = tuple(Mark(line, x, ours=3.0 + number / 9) for number, line in enumerate(lines) for x in (1, 2))
    few = Chart("few", "t", "x", "y", marks[:4], "nfe", "log").svg
    many = Chart("many", "t", "x", "y", marks, "nfe", "log").svg

    def heights(svg):
        return [float(number) for number in re.findall(r'<rect [^>]*height="([\d.]+)"', svg)]

    assert max(heights(many)) == pytest.approx(max(heights(few)), rel=0.1)
    styles = {tuple(sorted(style(number).items())) for number in range(64)}
    assert len(styles) == 64


def test_curves_of_a_run_have_plain_numbers_on_their_axes(tmp_path):
    losses = tmp_path / "loss.csv"
    losses.write_text("step,phase,images,loss\n1,1,128,50.0\n900,1,115200,3.0\n4000,2,512000,0.2\n")
    errors = [DistillationError(phase=p, start=2 * e, end=e, error=0.3 * p) for p, e in ((1, 4), (2, 2), (3, 1))]
    for svg in (loss_figure(losses), error_figure(errors)):
        texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
        assert len(texts) > 5
        assert not re.search(r"[$\\{}]", "".join(texts))
    assert "400K" in loss_figure(losses)


def test_distillation_error_is_shown_after_each_phase(store):
    marks = chart(document(store), "cifar10-errors").lines
    assert [mark.x for mark in marks["TRACT-256M"]] == [32, 1]
    assert [mark.x for mark in marks["BTD-96M"]] == [512 >> phase for phase in range(10)]
    scores = [by_sampling[0] for by_sampling in SCORES["btd-96m/1"]]
    assert [mark.ours for mark in marks["BTD-96M"]] == pytest.approx(
        [(i + 1) * statistics.fmean(scores) for i in range(10)]
    )


def test_one_place_makes_no_figure(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    fill(store, TABLES["digits"], {"mu-s-0/1": [[2.0, 2.0]]})
    shown = [part.id for part in document(store).chapters[0].order if isinstance(part, Chart)]
    assert shown == ["digits-errors"]


def test_an_ablation_with_nothing_to_compare_is_shown_where_it_is_asked_for(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    fill(store, TABLES["digits"], {"tract/1": [[2.0] * 3], "mu-s-0/1": [[2.1] * 3]})

    def ablations(found):
        return [part.title for part in found.chapters[0].order if "axis" in part.id]

    assert ablations(document(store)) == ["Self-teacher momentum"]
    assert ablations(document(store, table="digits")) == [axis.title for axis in TABLES["digits"].axes]


def test_failed_runs_are_not_called_not_run(tractbench, tmp_path):
    store, cell = Store(tmp_path / "runs", create=True), TABLES["digits"].cells["tract/1"]
    for seed in (0, 1):
        store.write(record(cell, seed, seed, [1.0], status="failed", reason="loss\nis nan", metrics={}))
    row = next(r for r in rows(sheet(document(store), "digits-cells")) if r["Method"].text == "TRACT-512K")
    assert row["FD, pixels, ours"].text == "failed (2 seeds)"
    assert "failed (2 seeds)" in tractbench("explain", cell.id, "--runs", store.root).out
    judged = tractbench("verify", "--tier", "small", "--runs", store.root).out
    assert "inconclusive   digits/tract-beats-btd-1step" in judged
    assert "tract/1: failed (2 seeds)" in judged


def test_lines_of_an_ablation_are_kept_apart(tmp_path):
    found = document(Store(tmp_path / "none", create=True), table="cifar10")
    lines = chart(found, "cifar10-budget").lines
    assert list(lines) == ["TRACT, 1 NFE", "TRACT-EDM, 1 NFE", "TRACT-EDM, 2 NFE"]
    assert [mark.published for mark in lines["TRACT-EDM, 2 NFE"]] == [3.75, 3.55]


def test_a_table_shows_its_tier_and_protocol_and_what_was_not_published(store):
    text = render_markdown(document(store, every=True))
    assert text.count("Tier paper; protocol tract") == 3
    assert text.count("Tier small; protocol raw") == 1
    assert text.count("No figure of this table is published") == 1


def test_only_tables_that_runs_touch_are_shown_unasked(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    fill(store, TABLES["cifar10"], {"tract-256m/2": [[3.9, 3.9]]})
    assert [chapter.id for chapter in document(store).chapters] == ["table-cifar10"]
    assert [chapter.id for chapter in document(store, every=True).chapters] == [f"table-{name}" for name in TABLES]
    assert not document(store, every=True).sheets


@pytest.mark.parametrize(
    ("selection", "error", "reason"),
    [
        ({"table": "cifr10"}, ConfigError, "did you mean 'cifar10'"),
        ({"table": "cifar10", "tier": "small"}, ConfigError, "cifar10 is cifar10, tier paper"),
        ({"tier": "smal"}, StoreError, "no runs of tier 'smal'"),
        ({"dataset": "digits"}, StoreError, "no runs of dataset 'digits'"),
    ],
)
def test_what_there_is_not_is_named_with_a_remedy(store, selection, error, reason):
    with pytest.raises(error, match=reason):
        document(store, **selection)


# --- pages


class Page(HTMLParser):
    """Ids, links, pictures and scripts of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.targets, self.pictures, self.scripts, self.outside = [], [], [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.scripts += tag == "script"
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img" or values.get("role") == "img":
            self.pictures.append(values.get("alt") or values.get("aria-label"))
        for name in ("src", "href", "xlink:href"):
            target = values.get(name)
            if target and target.startswith("#") and tag == "a":
                self.targets.append(target[1:])
            elif target and not target.startswith(("#", "data:")):
                self.outside.append(target)


def test_every_link_of_the_page_leads_somewhere_and_every_picture_is_described(store):
    page = Page(render_html(document(store, every=True), "tractbench report"))
    assert set(page.targets) <= set(page.ids)
    assert len(page.targets) > 50
    assert all(page.pictures)
    assert len(page.pictures) >= 10
    assert not page.outside
    markers = re.compile(r"[mp][0-9a-f]{10}")  # of matplotlib: the same shape has the same id
    own = [one for one in page.ids if not markers.fullmatch(one)]
    assert len(own) == len(set(own))


def test_samples_of_the_same_noise_stand_side_by_side(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    table = TABLES["digits"]
    fill(store, table, {"ddim/1": [[2.0, 2.0]], "tract/1": [[1.0, 1.0]], "btd/1": [[1.0, 1.0]]})
    for number in (0, 1):  # btd's pictures are gone
        for name, level in (("grid.png", 10 * number), ("teacher-grid.png", 200)):
            Image.new("L", (4, 4), level).save(store.root / "cells" / f"run-{number}" / name)
    text = render_html(document(store), "tractbench report")
    described = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', text)
    assert described == [
        "Samples of teacher digits-vp, 1024 steps from the same noise",
        "Samples of DDIM from the same noise",
        "Samples of TRACT-512K from the same noise",
    ]


HOSTILE = "<script>alert(1)</script>\"'&%$#_{}~^\\|\N{SNOWMAN}</svg>"


def hostile_tables(folder):
    """The table of CIFAR-10 with hostile words wherever its author may write words."""
    text = (shipped_tables() / "cifar10.toml").read_text()
    quoted = json.dumps(HOSTILE)
    text = re.sub(r'^(title|text|note|margin_reason) = ".*"$', lambda m: f"{m[1]} = {quoted}", text, flags=re.M)
    text = re.sub(r'^label = "(.*)"$', lambda m: f"label = {json.dumps(HOSTILE + m[1])}", text, flags=re.M)
    text = re.sub(r'reason = """.*?"""', lambda _: f"reason = {quoted}", text, flags=re.S)
    text = re.sub(r'line = "[^"]*"', lambda _: f"line = {quoted}", text)
    text = re.sub(r'^digest = ".*"$', lambda _: f"digest = {quoted}", text, flags=re.M)
    folder.mkdir()
    (folder / "cifar10.toml").write_text(text)
    return load_tables(folder)


def test_hostile_words_of_a_table_stay_words(store, tmp_path):
    found = compose(store, hostile_tables(tmp_path / "mine"), Selection(every=True))
    text = render_html(found, HOSTILE)
    page = Page(text)
    assert page.scripts == 1  # the page's own
    assert any(HOSTILE in described for described in page.pictures)
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<script>alert" not in render_markdown(found)


def test_no_text_of_a_csv_is_a_formula(tractbench, store, tmp_path):
    cell = TABLES["cifar10"].cells["tract-96m/1"]
    failed = {"status": "failed", "reason": "=HYPERLINK(1)", "metrics": {}}
    store.write(record(cell, 99, 7, [1.0, 1.0], **failed))
    found = tractbench("report", "--format", "csv", "--runs", store.root)
    last = list(csv.DictReader(io.StringIO(found.out)))[-1]
    assert last["reason"] == "'=HYPERLINK(1)"


# --- what stands behind


@pytest.mark.parametrize("name", TABLES)
def test_the_command_that_repeats_a_cell_makes_that_cell(name):
    from tractbench.reports.repeat import repeat_command

    for cell in TABLES[name].cells.values():
        trained = bool(resolve(cell.settings)[0].schedule)
        seed = 3 if trained else None
        wanted = resolve({**cell.settings, "seed": seed})[0]
        assert resolve(flags(repeat_command(cell, seed)))[0] == wanted


def test_explain_gives_every_run_hash_version_and_seed(tractbench, store):
    found = tractbench("explain", "cifar10/tract-256m/1", "--runs", store.root, "--json").json
    (origin,) = found["origins"]
    assert origin["hashes"] == {"teacher": "t-vp", "data": "d", "reference": "r"}
    assert origin["environment"]["packages"]["torch"] == "0"
    assert [run["seed"] for run in origin["runs"]] == [0, 1, 2, 3, 4]
    assert [list(run["scores"].values()) for run in origin["runs"]] == SCORES["tract-256m/1"]
    assert origin["runs"][0]["command"] == "tractbench run --number 0"
    assert origin["runs"][0]["files"] == ["record.json"]
    assert found["mean"] == statistics.fmean(statistics.fmean(s) for s in SCORES["tract-256m/1"])
    assert found["settings"]["mu_i"] == 0.99999
    assert len(found["repeat"]) == 5
    assert found["verdict"]["verdict"] == "reproduced"
    text = tractbench("explain", "cifar10/tract-256m/1", "--runs", store.root).out
    for part in (
        "t-vp",
        "tractbench run --number 4",
        "published   4.45 ± 0.05",
        "n 5",
        "0:4.48 1:4.46",
        "mu_i=0.99999",
    ):
        assert part in text


def test_explain_knows_claims_runs_and_cells_that_were_not_run(tractbench, store):
    claim = tractbench("explain", "cifar10/tract-beats-btd-1step", "--runs", store.root, "--json").json
    assert [cell["id"] for cell in claim["cells"]] == ["cifar10/tract-96m/1", "cifar10/btd-96m/1"]
    assert claim["verdict"]["verdict"] == "inconclusive"
    text = tractbench("explain", "cifar10/tract-beats-btd-1step", "--runs", store.root).out
    assert "cifar10/tract-96m/1 over cifar10/btd-96m/1: ratio 0.5495, n 1" in text
    assert tractbench("explain", "0000000000", "--runs", store.root, "--json").json["folder"] == "cells/run-0"
    assert tractbench("explain", "run-3", "--runs", store.root, "--json").json["config"]["seed"] == 3
    absent = tractbench("explain", "cifar10/btd-96m/2", "--runs", "nowhere")
    assert "not run" in absent.out
    assert "no results in nowhere yet" in absent.err
    assert not Path("nowhere").exists()
    unknown = tractbench("explain", "cifr10", "--runs", store.root)
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "did you mean 'cifar10'" in unknown.err
    unknown = tractbench("explain", "cifar10/tract-256m/3", "--runs", store.root)
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "did you mean 'cifar10/tract-256m/" in unknown.err


def test_explain_of_a_table_gives_the_commands_that_make_it(tractbench, store):
    table = TABLES["cifar10"]
    found = tractbench("explain", "cifar10", "--runs", store.root, "--json").json
    assert [cell["id"] for cell in found["cells"]] == [cell.id for cell in table.cells.values()]
    assert len(found["verdicts"]) == len(table.cells) + len(table.claims)
    commands = tractbench("explain", "cifar10", "--runs", store.root, "--commands").out.splitlines()
    assert commands == [command for cell in found["cells"] for command in cell["repeat"]]
    assert len(commands) == 5 * len(table.cells)
    printed = tractbench("explain", "cifar10", "--runs", store.root).out
    assert f"  made by        tractbench suite --table cifar10 --runs {store.root}\n" in printed
    assert "tractbench run --method" not in printed


# --- data


def test_results_load_with_the_columns_that_are_documented(store):
    runs = package.load_results(store.root)
    assert list(runs.columns) == [*RUN_COLUMNS, "fid", "fid_std"]
    assert runs["fid"].tolist() == [statistics.fmean(s) for by_seed in SCORES.values() for s in by_seed]
    scores = package.load_results(str(store.root), by="score")
    assert list(scores.columns) == list(SCORE_COLUMNS)
    assert scores["score"].tolist() == [score for by_seed in SCORES.values() for s in by_seed for score in s]
    with pytest.raises(ConfigError, match="by 'cell'"):
        package.load_results(store.root, by="cell")
    with pytest.raises(StoreError):
        package.load_results(store.root / "nothing")


def test_a_csv_of_a_table_has_a_row_for_each_cell(tractbench, store):
    text = tractbench("report", "--table", "cifar10", "--format", "csv", "--runs", store.root).out
    frame = pd.read_csv(io.StringIO(text)).set_index("id")
    assert list(frame.reset_index().columns) == list(CELL_COLUMNS)
    assert list(frame.index) == [cell.id for cell in TABLES["cifar10"].cells.values()]
    row = frame.loc["cifar10/btd-96m/1"]
    assert (row["published"], row["published_budget"], row["verdict"], row["n"]) == (9.12, "other", "budget differs", 3)
    assert frame.loc["cifar10/tract-96m/1", "published_std"] == 0.1


def test_formats_of_one_selection_tell_the_same(tractbench, store, tmp_path):
    page = tmp_path / "page.html"
    assert tractbench("report", "--table", "cifar10", "--runs", store.root, "--out", page).code == 0
    markdown = tractbench("report", "--table", "cifar10", "--runs", store.root, "--format", "markdown").out
    written = page.read_text(encoding="utf-8")
    for text in ("4.442 ± 0.028", "4.45 ± 0.05", "reproduced", "budget differs"):
        assert text in markdown
        assert text in written
    both = tractbench("report", "--table", "cifar10", "--all", "--runs", store.root)
    assert (both.code, both.err.count("\n")) == (2, 1)


# --- parts


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (1.0, None, "1.00"),
        (0.5, (0.4, 0.6), "0.500 [0.400, 0.600]"),
        (-0.001, (-0.2, 0.2), "0.00 [-0.20, 0.20]"),
        (123.4, (100.0, 150.0), "123 [100, 150]"),
    ],
)
def test_digits_of_an_interval_follow_its_width(value, interval, text):
    assert with_interval(value, interval) == text


def test_footnotes_are_lettered_once_and_go_on_after_z():
    notes = Notes()
    assert notes.mark("one", "", "two") == ("a", "b")
    assert notes.mark("two", "three") == ("b", "c")
    assert notes.mark(*map(str, range(27)))[-1] == "ad"
    assert list(notes.texts)[:3] == ["a", "b", "c"]


def test_a_sheet_without_a_best_says_nothing_of_bold():
    assert Sheet("id", "title", "caption").legend == "caption"
