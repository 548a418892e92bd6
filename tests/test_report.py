import csv
import math
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tractbench.claims.loading import load_tables
from tractbench.config.resolve import resolve
from tractbench.reports.document import Selection, compose
from tractbench.reports.latex.document import latex_tables
from tractbench.reports.latex.text import escape_latex
from tractbench.reports.render import render_csv, render_html, render_markdown
from tractbench.reports.sheet import with_spread
from tractbench.results.record import DistillationError, Metric, Record, RecordedConfig
from tractbench.results.store import Store

METRICS = ("fd_pixel", "fd_feature", "fd_pixel_held_out", "fd_feature_held_out", "nn_ratio")
FLOORS = {"fd_feature": 0.2, "nn_ratio": 0.5, "fd_pixel": 0.1, "fd_feature_held_out": 0.4, "fd_pixel_held_out": 0.3}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", create=True)


def add(store, scores, status="done", reason=None, floors=FLOORS, version=1, spent=None, **settings):
    """Record a run whose every metric scored ``scores`` over its sampling seeds."""
    seeds = tuple(range(max(1, len(scores))))
    config, _, _ = resolve({"method": "tract", "dataset": "digits", "sampling_seeds": seeds} | settings)
    number = len(store.records())
    record = {
        "identity": f"{number:064d}",
        "student": f"{number:064d}",
        "training_version": version,
        "scoring_version": version,
        "status": status,
        "reason": reason,
        "created": "2026-01-01T00:00:00+00:00",
        "config": RecordedConfig.of(config),
        "metrics": {name: Metric.of(scores) for name in METRICS} if status == "done" else {},
        "floors": floors,
        "distillation_errors": (DistillationError(phase=1, start=1024, end=1, error=0.25),),
        "nfe_spent": spent or config.nfe,
        "parameters": 1234567,
        "environment": {"packages": {"tractbench": "0", "torch": "0"}, "python": "3", "processor": "p", "threads": 1},
        "folder": f"cells/run-{number}",
    }
    store.write(Record.model_validate(record))


def render(store, output, **selection):
    """The tables of all runs, without those of the paper."""
    document = replace(compose(store, load_tables(), Selection(**selection)), chapters=())
    if output == "html":
        return render_html(document, "tractbench report")
    if output == "latex":
        return latex_tables(document.every_sheet, "tractbench report")
    return render_markdown(document) if output == "markdown" else render_csv(document)


def markdown_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rows = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return [row for row in rows if not row["Method"].startswith("*real")]


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (3.14159, 0.0123, "3.142 ± 0.012"),
        (3.14159, 0.00123, "3.142 ± 0.001"),
        (3.14159, 0.000123, "3.1416 ± 0.0001"),
        (314.159, 1.23, "314.2 ± 1.2"),
        (314.159, 23.0, "314 ± 23"),
        (3.14159, 0.0, "3.142 ± 0.000"),
        (3.14159, math.nan, "3.142"),
        (math.nan, 1.0, "-"),
    ],
)
def test_digits_shown_follow_the_spread(mean, std, text):
    assert with_spread(mean, std) == text


def test_a_table_has_mean_std_seeds_budget_parameters_and_evaluations(store):
    add(store, [1.0, 2.0, 4.0], nfe=2, budget="512K")
    (row,) = markdown_rows(render(store, "markdown"))
    assert row["FD, pixels"] == f"{statistics.fmean([1, 2, 4]):.1f} ({statistics.stdev([1, 2, 4]):.1f})"
    assert (row["NFE"], row["Seeds"], row["Budget"], row["Parameters"]) == ("2", "1 x 3", "512K", "1,234,567")
    assert row["Distillation error"] == "0.25"


def test_floors_stand_under_their_own_metric(store):
    add(store, [1.0, 2.0])
    footer = re.search(r"<tfoot>.*</tfoot>", render(store, "html"), re.S)[0]
    assert re.findall(r'number[^"]*">([\d.]+)<', footer) == ["0.100", "0.200", "0.300", "0.400", "0.500"]
    (printed,) = [line for line in render(store, "latex").splitlines() if "real images" in line and "&" in line]
    assert re.findall(r"& (0\.\d+)", printed) == ["0.100", "0.200"]  # a page has no room for the others


def test_training_seeds_are_one_row_with_both_spreads(store):
    for seed, scores in enumerate([[1.0, 3.0], [5.0, 7.0]]):
        add(store, scores, seed=seed)
    add(store, [9.0, 9.5], mu_s=0.9)
    first, other = markdown_rows(render(store, "markdown"))
    both = (statistics.stdev([2, 6]), math.sqrt(2))  # of the runs' means, and each run's own spread
    assert first["FD, pixels"] == f"**4.0 ± {both[0]:.1f} ({both[1]:.1f})**"
    assert first["Seeds"] == "2 x 2"
    assert (first["Settings"], other["Settings"]) == ("-", "mu_s=0.9")


def test_the_best_of_an_nfe_is_bold_and_a_row_alone_is_not(store):
    add(store, [2.0, 2.1], nfe=1)
    add(store, [1.0, 1.1], nfe=1, mu_s=0.9)
    add(store, [3.0, 3.1], nfe=4)
    worse, better, alone = sorted(
        markdown_rows(render(store, "markdown")), key=lambda row: (row["NFE"], row["Settings"])
    )
    assert better["FD, pixels"].startswith("**")
    assert not worse["FD, pixels"].startswith("**")
    assert not alone["FD, pixels"].startswith("**")


def test_tiers_are_never_in_one_table(store):
    add(store, [1.0, 2.0])
    add(store, [1.0, 2.0], tier="smoke")
    text = render(store, "markdown")
    assert text.count("### digits") == 2
    assert render(store, "markdown", tier="smoke").count("### digits") == 1


def test_a_failed_run_is_shown_with_its_reason(store):
    add(store, [], status="failed", reason="loss is nan", floors={})
    (row,) = markdown_rows(render(store, "markdown"))
    assert row["FD, pixels"] == "-"
    assert row["Settings"] == "failed: loss is nan"


def test_failed_seeds_are_counted_beside_those_that_are_done(store):
    add(store, [1.0, 2.0])
    add(store, [], status="failed", reason="loss\nis nan", floors={}, seed=1)
    (row,) = markdown_rows(render(store, "markdown"))
    assert row["Seeds"] == "1 x 2, 1 failed"
    assert row["Settings"] == "-"


def test_csv_holds_every_run_to_the_last_bit(store):
    scores = [1 / 3, 2 / 7, math.pi]
    add(store, scores)
    (row,) = csv.DictReader(render(store, "csv").splitlines())
    assert float(row["fd_pixel"]) == statistics.fmean(scores)
    assert float(row["fd_pixel_std"]) == statistics.stdev(scores)


HOSTILE = "<script>alert(1)</script>\"'&%$#_{}~^\\|\N{SNOWMAN}"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"


def test_hostile_text_is_text_in_html_and_latex(store):
    add(store, [], status="failed", reason=HOSTILE)
    page = Tags()
    page.feed(render(store, "html"))
    assert page.scripts == 1  # the page's own
    escaped = escape_latex(HOSTILE)
    assert escaped in render(store, "latex").replace(r"\allowbreak{}", "")
    bare = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\{[*\[]\}", "", escaped)
    assert not set(bare) & set("\\&%$#_{}~^<>")
    assert bare.isascii()
    (row,) = markdown_rows(render(store, "markdown"))
    assert re.sub(r"\\([\\|<>*_`\[\]&~$])", r"\1", row["Settings"]) == f"failed: {HOSTILE}"


def test_the_page_needs_nothing_from_outside(store):
    add(store, [1.0, 2.0])
    page = render(store, "html")
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page


def test_rows_of_different_teachers_and_solvers_can_be_told_apart(store):
    for settings in ({}, {"process": "ve"}, {"process": "ve", "solver": "heun"}):
        add(store, [1.0, 2.0], method="ddim", **settings)
    add(store, [1.0, 2.0], method="tract", teacher="mine.toml", loss_weight="uniform")
    shown = {row["Settings"] for row in markdown_rows(render(store, "markdown"))}
    assert shown == {"-", "process=ve", "process=ve solver=heun", "loss_weight=uniform teacher=mine.toml"}


def test_a_sampling_seed_counts_once_in_its_cell(store):
    add(store, [1.0, 2.0, 3.0], sampling_seeds=(0, 1, 2))
    add(store, [2.0, 3.0, 9.0], sampling_seeds=(1, 2, 3))
    (row,) = markdown_rows(render(store, "markdown"))
    assert row["FD, pixels"] == f"{statistics.fmean([1, 2, 3, 9]):.1f} ({statistics.stdev([1, 2, 3, 9]):.1f})"
    assert row["Seeds"] == "1 x 4"


def test_results_of_another_version_are_never_averaged_in(store):
    add(store, [1.0, 2.0])
    add(store, [5.0, 6.0], version=2, seed=1)
    assert len(markdown_rows(render(store, "markdown"))) == 2


def test_heun_is_shown_and_compared_at_what_it_spends(store):
    add(store, [1.0, 2.0], method="ddim", process="ve", nfe=7, solver="heun", spent=3)
    add(store, [3.0, 4.0], method="ddim", nfe=4)
    shown = {row["NFE"]: row["FD, pixels"] for row in markdown_rows(render(store, "markdown"))}
    assert shown == {"3": "1.50 (0.71)", "4": "3.50 (0.71)"}


def test_a_caption_glosses_only_what_is_in_its_table(store):
    add(store, [1.0, 2.0])
    text = render(store, "markdown")
    assert "NN ratio: distance" in text
    assert "Sliced W2:" not in text
    assert "grey levels" in text
