"""Hostile names in Markdown and CSV, read by other software than ours."""

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_data import record
from test_paper_report import SCORES, TABLES, hostile_tables

from tractbench.reports.document import Selection, compose
from tractbench.reports.render import render_csv, render_markdown
from tractbench.reports.safe_text import FORMULA, markdown_paragraph, markdown_text, spreadsheet_safe
from tractbench.results.record import Metric
from tractbench.results.store import Store

NASTY = [
    "=cmd|' /C calc'!A0", "a | b", "`rm -rf`", "[x](javascript:alert(1))", "![x](http://e/i.png)", "<b>x</b>",
    "&lt;b&gt;", "~~gone~~", "$x_1$", "*x* _y_ __z__", "# head", "- item", "1. item", "2) item", "+ item", "---", "===",
    "\\", "> q", "|---|", "<!-- x", "a\n\n# b", "@SUM(A1)", " =1+1", "\t=1", "\uff1dcmd", "<http://e>", "```",
]  # fmt: skip
words = st.sampled_from(NASTY) | st.text(st.sampled_from("ab1 =+-@|`*_~$#<>&![]()\\.\n\t"), max_size=12)


def shown(markdown):
    """The tokens that CommonMark with tables and strikethrough makes, and the words that a reader sees."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    inner = [child for token in tokens for child in token.children or ()]
    return [token.type for token in tokens], {c.type for c in inner}, "".join(c.content for c in inner)


def one_line(text):
    return " ".join(text.split())


@given(words)
@settings(max_examples=300, deadline=None)
def test_a_paragraph_is_its_words(text):
    kinds, inner, seen = shown(markdown_paragraph(text))
    assert seen == one_line(text)
    assert inner <= {"text", "text_special"}
    assert kinds in ([], ["paragraph_open", "inline", "paragraph_close"])


@given(words, words)
@settings(max_examples=200, deadline=None)
def test_a_cell_of_a_table_is_its_words(first, second):
    table = f"| a | b |\n| --- | --- |\n| {markdown_text(first)} | {markdown_text(second)} |\n"
    kinds, inner, seen = shown(table)
    assert seen == "ab" + one_line(first) + one_line(second)
    assert kinds.count("td_open") == 2
    assert inner <= {"text", "text_special"}


@given(words)
@settings(max_examples=300, deadline=None)
def test_no_field_of_a_csv_begins_a_formula(text):
    file = io.StringIO()
    csv.writer(file).writerow([spreadsheet_safe(text)])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    (field,) = row or [""]
    number = re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", field)
    assert number or not field.lstrip().startswith(FORMULA)
    assert field in (text, f"'{text}")


@pytest.mark.parametrize("number", ["-1.5", "+3", "-1e-9", "-inf"])
def test_numbers_stay_numbers(number):
    assert spreadsheet_safe(number) == number


def test_hostile_tables_and_runs_make_a_report_of_words(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    cell = TABLES["cifar10"].cells["tract-96m/1"]
    metrics = {cell.metric: Metric.of([1.0, 2.0]), "=HYPERLINK(1)": Metric.of([1.0, 2.0])}
    store.write(record(cell, 1, 0, [1.0, 2.0], metrics=metrics))
    store.write(record(cell, 2, 1, [1.0, 2.0], status="failed", reason="=cmd|x `y` <b> ~~z~~", metrics={}))
    document = compose(store, hostile_tables(tmp_path / "mine"), Selection(every=True))
    _, inner, _ = shown(render_markdown(document))
    assert inner <= {"text", "text_special", "strong_open", "strong_close", "em_open", "em_close"}
    for found in (document, compose(store, TABLES, Selection())):
        for row in csv.reader(io.StringIO(render_csv(found))):
            for field in row:
                assert not field.lstrip().startswith(FORMULA) or re.fullmatch(r"-[\d.e+-]+", field), field
    assert SCORES  # the tables that the hostile ones are made of
