"""Margins, minima, figures of others, and rows that are not run here."""

import csv
import io
import tomllib
from pathlib import Path

import pytest
from suite_data import TINY, choice, tiny_folder

from tractbench.claims.loading import load_tables
from tractbench.claims.margins import Margin
from tractbench.errors import ConfigError
from tractbench.pipeline.suite_cells import wanted_cells
from tractbench.reports.chapters.chapter import chapter
from tractbench.reports.evidence import Evidence
from tractbench.reports.findings import Findings, Found
from tractbench.reports.verdicts.judge import judge

HEAD = '[[row]]\nid = "ddim"\nlabel = "DDIM"\nsettings = { method = "ddim" }\ncell = [{ nfe = 1 }, { nfe = 2 }]\n'
FIELD = TINY.replace('us = "made up"', 'us = "made up"\nthem = "others"').replace(
    HEAD,
    """
[[row]]
id = "ddim"
label = "DDIM"
lpips = false
settings = { method = "ddim" }
[[row.cell]]
nfe = 1
margin = { share = 0.1, reason = "so" }
[row.cell.published]
value = 5.0
error = 0.1
source = "us"
others = [{ value = 4.7, source = "them", kind = "reproduction", aggregation = "minimum" }]
[[row]]
id = "gan"
label = "GAN"
discriminator = true
backbone = "a network"
cannot = "no method here trains a discriminator"
cell = [{ nfe = 1, published = { value = 4.8, error = 0.1, source = "them" } }]
[[row]]
id = "other"
label = "GAN with classes"
data = "class conditional"
cannot = "no method here trains a discriminator"
cell = [{ nfe = 1, published = { value = 1.0, error = 0.1, source = "them" } }]
""",
)


def found_of(text, quoted=(), scores=None):
    """The tiny table, its evidence with these scores for DDIM in one step, and its verdicts by id."""
    table = choice(text).tables[0]
    evidence = {cell.id: Evidence() for cell in table.cells.values()}
    evidence["tiny/ddim/1"] = Evidence(quoted=dict(enumerate(quoted)), scores=scores or {})
    return table, evidence, {verdict.id: verdict for verdict in judge({"tiny": table}, evidence)}


def cells_sheet(table, evidence, verdicts):
    found = Found(Findings((), evidence, verdicts))
    (sheet,) = [part for part in chapter(table, found).order if part.id == "tiny-cells"]
    return sheet


# Margins


def test_a_margin_is_a_share_of_the_figure_or_was_measured():
    assert Margin(share=0.05, reason="so").of(4.0) == pytest.approx(0.2)
    assert Margin(training_std=0.03, reason="so").of(4.0) == pytest.approx(0.06)
    assert Margin(training_std=0.03, times=3.0, reason="so").of(9.0) == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("margin", "reason"),
    [
        ("0.3", 'share = 0.05, reason = "..."'),
        ('{ reason = "so" }', "give one of them"),
        ('{ share = 0.1, training_std = 0.1, reason = "so" }', "give one of them"),
        ('{ share = 0.1, times = 2.0, reason = "so" }', "times belongs"),
        ('{ share = 0.1, reason = " " }', "needs a reason"),
        ("{ share = 0.1 }", "reason"),
    ],
)
def test_a_margin_without_a_kind_or_a_reason_is_refused(margin, reason):
    text = FIELD.replace('{ share = 0.1, reason = "so" }', margin)
    with pytest.raises(ConfigError, match=reason):
        choice(text)


def test_a_margin_that_does_not_tell_a_row_from_its_neighbour_is_marked():
    table, evidence, found = found_of(FIELD, [5.0, 5.01, 4.99])
    said = "the margin of ±0.5 does not tell it from GAN, 4.8"
    assert found["tiny/ddim/1"].wide == said
    sheet = cells_sheet(table, evidence, found)
    ruling = next(entry for entry in sheet.rows[0] if "reproduced" in entry.text)
    assert said in [sheet.notes[mark] for mark in ruling.marks]
    narrow = FIELD.replace("share = 0.1", "share = 0.03")
    assert found_of(narrow, [5.0, 5.01, 4.99])[2]["tiny/ddim/1"].wide == ""


def test_no_shipped_margin_of_the_main_table_spans_a_gap():
    table = load_tables()["cifar10"]
    for cell in table.cells.values():
        assert not table.nearest(cell).said(cell.margin)


# Minima


def minimum(runs, over):
    said = f'aggregation = "minimum"\nover = "{over}"\n' + (f"runs = {runs}\n" if runs else "")
    return FIELD.replace('error = 0.1\nsource = "us"\n', f'error = 0.1\nsource = "us"\n{said}')


def test_a_minimum_over_sampling_seeds_is_compared_with_ours_over_as_many():
    scores = {seed: dict(enumerate((5.3 + seed / 100, 5.0 + seed / 100, 5.2, 1.0))) for seed in range(3)}
    quoted = [sum(by_seed.values()) / 4 for by_seed in scores.values()]
    found = found_of(minimum(3, "sampling"), quoted, scores)[2]["tiny/ddim/1"]
    assert found.estimate == pytest.approx(5.01)  # the fourth sampling seed was not among theirs
    assert found.mean == pytest.approx(sum(quoted) / 3)
    assert found.verdict == "reproduced"
    few = {seed: {0: 5.0, 1: 5.1} for seed in range(3)}
    hindered = found_of(minimum(3, "sampling"), [5.05] * 3, few)[2]["tiny/ddim/1"]
    assert (hindered.verdict, hindered.estimate) == ("inconclusive", None)
    assert "needs as many of ours" in hindered.notes[0]


def test_a_minimum_over_trainings_is_compared_with_minima_of_disjoint_groups():
    quoted = [5.4, 5.0, 5.6, 5.02, 5.3, 5.01, 1.0]
    table, evidence, verdicts = found_of(minimum(2, "training"), quoted, {s: {0: v} for s, v in enumerate(quoted)})
    found = verdicts["tiny/ddim/1"]
    assert found.estimate == pytest.approx((5.0 + 5.02 + 5.01) / 3)  # the seventh seed has no partner
    assert (found.verdict, found.n, found.mean) == ("reproduced", 7, pytest.approx(sum(quoted) / 7))
    (sheet,) = [
        part for part in chapter(table, Found(Findings((), evidence, verdicts))).order if part.id == "tiny-cells"
    ]
    assert any(entry.text.startswith("5.010 (mean 4.") for entry in sheet.rows[0])


def test_a_minimum_over_nobody_knows_how_many_is_never_decided():
    found = found_of(minimum(None, "training"), [5.0, 5.01, 4.99])[2]["tiny/ddim/1"]
    assert (found.verdict, found.further_seeds) == ("inconclusive", None)
    assert "does not say" in found.notes[0]
    with pytest.raises(ConfigError, match="belong to aggregation 'minimum'"):
        choice(minimum(3, "training").replace('aggregation = "minimum"\nover', 'aggregation = "mean"\nover'))


# Rows that are not run here


def test_a_row_that_cannot_be_run_is_shown_and_neither_run_nor_judged():
    table, evidence, verdicts = found_of(FIELD)
    assert "gan/1" not in table.cells
    assert not any("gan" in name for name in verdicts)
    assert not any("gan" in ref for one in wanted_cells(choice(FIELD))[0] for ref in one.refs)
    (sheet,) = [
        part for part in chapter(table, Found(Findings((), evidence, verdicts))).order if part.id == "tiny-cells"
    ]
    titles = [column.title for column in sheet.columns]
    first, gan, other = (dict(zip(titles, row, strict=True)) for row in sheet.rows[:3])
    assert first["By others"].text == "4.7"
    notes = [sheet.notes[mark] for mark in first["By others"].marks]
    assert notes == ["others", "reproduction, printed without ±, a minimum over a number of runs that is not said"]
    assert gan["FD, pixels, ours"].text == "not run here"
    assert [sheet.notes[m] for m in gan["FD, pixels, ours"].marks] == ["no method here trains a discriminator"]
    assert [gan[title].text for title in ("Discriminator", "LPIPS", "Backbone")] == ["yes", "-", "a network"]
    assert (first["LPIPS"].text, other["Other data"].text) == ("no", "class conditional")
    best = [row["Method"].text for row in (first, gan, other) if row["FD, pixels, published"].best]
    assert best == ["GAN"]  # not the one of other data


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('cannot = "no method', 'settings = { method = "ddim" }\ncannot = "no method'), "needs settings, or a reason"),
        (('cannot = "no method here trains a discriminator"\n', ""), "needs settings, or a reason"),
        (("lpips = false", 'data = "other"'), "belongs to a row that cannot be run"),
        (('source = "them", kind', 'source = "rumour", kind'), "unknown source 'rumour'"),
        ((', kind = "reproduction"', ""), "kind"),
    ],
)
def test_damage_to_a_field_table_is_named(change, reason):
    text = FIELD.replace(*change)
    assert text != FIELD
    with pytest.raises(ConfigError, match=reason):
        choice(text)


def test_a_csv_has_rows_that_are_not_run_too(tractbench):
    words = ("report", "--table", "tiny", "--tables", tiny_folder(FIELD), "--format", "csv")
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(tractbench(*words).out))}
    assert list(rows)[:3] == ["tiny/ddim/1", "tiny/gan/1", "tiny/other/1"]
    gan = rows["tiny/gan/1"]
    assert (gan["published"], gan["discriminator"], gan["verdict"], gan["n"]) == ("4.8", "True", "", "0")
    assert gan["not_run_here"] == "no method here trains a discriminator"
    assert rows["tiny/ddim/1"]["published_others"] == "4.7 (reproduction, others)"


NEEDED = {"cd", "ict-deep", "ect", "scm", "scd", "tcm", "ctm", "sid", "gdd-i"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("cifar10-field", {"pd", "meanflow", "imm", "sct", "dmd2-conditional"}),
        ("imagenet64-field", {"mscd", "dmd2"}),
    ],
)
def test_the_tables_of_the_field_have_every_method_run_or_with_a_reason(name, more):
    table = load_tables()[name]
    assert {row.id for row in table.rows} >= NEEDED | more
    methods = {cell.config.method for cell in table.cells.values()}
    assert methods >= {"cd", "ect", "scm"}
    for row in table.rows:
        assert row.discriminator is not None
        assert row.cannot or all(f"{row.id}/{data.nfe}" in table.cells for data in row.cells)
    path = Path(__file__).parents[1] / "tables" / f"{name}.toml"
    sources = tomllib.loads(path.read_text(encoding="utf-8"))["sources"]
    used = {f.source for r in table.rows for d in r.cells for f in (d.published, *d.published.others)}
    assert used == set(sources)
