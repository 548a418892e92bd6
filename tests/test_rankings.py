"""The table that says where feature spaces rank rows differently."""

import pytest
from report_data import record

from tractbench.claims.loading import load_tables
from tractbench.reports.document import Selection, compose
from tractbench.reports.evidence import gather
from tractbench.reports.latex.tables import latex_table
from tractbench.reports.render import render_html, render_markdown
from tractbench.results.record import Metric
from tractbench.results.store import Store

TABLE = load_tables()["digits"]
ROWS = ("btd/1", "tract/1", "cd/1")


def runs(scores, **changes):
    """A run of each row and training seed: a score a space, moved a little by the seed."""
    found = []
    for index, (ref, spaces) in enumerate(scores.items()):
        for seed in range(5):
            values = {name: [score * (1 + 0.01 * ((index + 1) * seed % 5) + 0.001 * place) for place in range(3)]
                      for name, score in spaces.items()}  # fmt: skip
            metrics = {name: Metric.of(per_seed) for name, per_seed in values.items()}
            one = record(TABLE.cells[ref], len(found), seed, values["fd_pixel"], metrics=metrics)
            found.append(one.model_copy(update=changes))
    return found


def document(tmp_path, records):
    store = Store(tmp_path / "runs", create=True)
    for one in records:
        store.write(one)
    return compose(store, load_tables(), Selection(table="digits"))


def sheet(tmp_path, records):
    sheets = [one for one in document(tmp_path, records).every_sheet if one.title == "Rankings by feature space"]
    return sheets[0] if sheets else None


def rows_of(found):
    return [[entry.text for entry in row] for row in found.rows]


REVERSED = {
    "btd/1": {"fd_pixel": 1.0, "fd_feature": 9.0},
    "tract/1": {"fd_pixel": 2.0, "fd_feature": 4.0},
    "cd/1": {"fd_pixel": 3.0, "fd_feature": 20.0},
}
SAME = {"btd/1": {"fd_pixel": 1.0, "fd_feature": 2.0}, "tract/1": {"fd_pixel": 2.0, "fd_feature": 4.0}}


def test_a_reversal_beyond_the_intervals_is_named(tmp_path):
    found = sheet(tmp_path, runs(REVERSED))
    labels = {ref: TABLE.cells[ref].row.label for ref in ROWS}
    # one pair of three is reversed: tau (2 - 1) / 3
    assert rows_of(found) == [
        ["FD, pixels : FD, features", "1", "3", "0.33", "0", f"{labels['btd/1']} < {labels['tract/1']}"]
    ]


def test_spaces_that_agree_have_tau_one(tmp_path):
    assert rows_of(sheet(tmp_path, runs(SAME))) == [["FD, pixels : FD, features", "1", "2", "1.00", "0", "none"]]


def test_a_reversal_within_the_intervals_is_counted_only(tmp_path):
    scores = REVERSED | {"tract/1": {"fd_pixel": 1.0005, "fd_feature": 4.0}}
    (row,) = rows_of(sheet(tmp_path, runs(scores)))
    assert row[3:5] == ["0.33", "1"]
    assert row[-1] == "none"


def test_every_pair_of_spaces_has_a_line_and_held_out_ones_none(tmp_path):
    scores = {ref: {**spaces, "fd_dinov2": 1 / spaces["fd_pixel"], "fd_pixel_held_out": 1.0, "nn_ratio": 1.0}
              for ref, spaces in SAME.items()}  # fmt: skip
    found = {row[0]: row[3] for row in rows_of(sheet(tmp_path, runs(scores)))}
    assert found == {
        "FD, pixels : FD-DINOv2": "-1.00",
        "FD, pixels : FD, features": "1.00",
        "FD-DINOv2 : FD, features": "-1.00",
    }


def test_a_row_without_a_space_is_not_ranked_in_it(tmp_path):
    scores = REVERSED | {"cd/1": {"fd_pixel": 3.0}}
    assert [row[2] for row in rows_of(sheet(tmp_path, runs(scores)))] == ["2"]


@pytest.mark.parametrize("scores", [{"btd/1": SAME["btd/1"]}, {ref: {"fd_pixel": 1.0} for ref in ROWS}])
def test_one_row_or_one_space_makes_no_table(tmp_path, scores):
    assert sheet(tmp_path, runs(scores)) is None


def test_it_is_in_every_format(tmp_path):
    whole = document(tmp_path, runs(REVERSED))
    for text in (render_markdown(whole), render_html(whole, "tractbench report")):
        assert "Rankings by feature space" in text
        assert "Kendall" in text
    (found,) = (one for one in whole.every_sheet if one.title == "Rankings by feature space")
    assert "Rankings by feature space" in latex_table(found)


def test_runs_with_more_spaces_stand_in_the_tables_of_their_protocol(tmp_path):
    records = runs(SAME)
    more = [
        one.model_copy(update={"config": one.config.model_copy(update={"protocol": "raw+neighbours"})})
        for one in records[5:]
    ]
    evidence = gather([*records[:5], *more], {"digits": TABLE})
    assert len(evidence["digits/tract/1"].quoted) == len(evidence["digits/btd/1"].quoted) == 5
    other = [
        one.model_copy(update={"config": one.config.model_copy(update={"protocol": "raw+clip"})}) for one in records[5:]
    ]
    assert not gather([*records[:5], *other], {"digits": TABLE})["digits/tract/1"].touched
