"""The paper's tables as data: every published figure is there, every cell is a run, damage is named."""

import re
import typing
from pathlib import Path

import pytest

from tractbench.config import resolve
from tractbench.errors import ConfigError
from tractbench.paper import Claim, load_tables, shipped_tables

MAIN = {
    ("cifar10", "tract_edm", 1): {3.78, 4.17}, ("cifar10", "tract", 1): {4.45, 5.02}, ("cifar10", "btd", 1): {9.12},
    ("cifar10", "tract", 2): {3.32}, ("cifar10", "tract_edm", 2): {3.55, 3.75}, ("cifar10", "btd", 2): {4.51},
    ("imagenet64", "tract", 1): {7.43}, ("imagenet64", "tract_edm", 1): {7.52}, ("imagenet64", "btd", 1): {17.5},
    ("imagenet64", "tract_edm", 2): {4.97},
}  # fmt: skip
ABLATIONS = {6.32, 5.24, 6.04, 7.61, 6.91, 5.5, 8.73, 14.40, 6.06, 7.27, 5.95, 6.8, 5.02, 6.47}


def figures(name):
    return [cell for cell in load_tables()[name].cells.values() if cell.published]


@pytest.mark.parametrize("name", ["cifar10", "imagenet64"])
def test_every_figure_of_the_papers_tables(name):
    found = {}
    for cell in figures(name):
        found.setdefault((name, cell.settings["method"], cell.nfe), set()).add(cell.published.value)
    assert found == {key: value for key, value in MAIN.items() if key[0] == name}


def test_every_figure_of_the_ablations():
    assert {cell.published.value for cell in figures("cifar10-ablations")} >= ABLATIONS - {5.02}


def test_progressive_distillations_figures_are_not_of_the_same_budget():
    for cell in figures("cifar10"):
        if cell.settings["method"] == "btd":
            assert cell.published.budget != "same"


@pytest.mark.parametrize("name", load_tables())
def test_every_cell_is_a_run(name):
    for cell in load_tables()[name].cells.values():
        config, _, _ = resolve(cell.settings)
        assert (config.tier, config.protocol, config.nfe) == (cell.tier, cell.protocol, cell.nfe)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("title = ", "titel = "), "title: field required"),
        (('metric = "fid"', 'metric = "fd"'), "metric"),
        (("value = 3.78", "value = -3.78"), "value"),
        (('source = "digest"', 'source = "rumour"'), "rumour"),
        (("nfe = 1\n", "nfe = 0\n"), "nfe"),
        (("margin_reason", "reason_of_margin"), "margin"),
        (("[[row]]", "[[row]"), "not TOML"),
    ],
)
def test_damage_names_file_and_key(tmp_path, change, reason):
    text = (shipped_tables() / "cifar10.toml").read_text().replace(*change)
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"mine\.toml.*{re.escape(reason)}") as caught:
        load_tables(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_documented_table_is_one(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "tables.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", page, re.S)[1]
    others = """
[[row]]
id = "mu-s-0"
label = "mu_S 0"
ablation = true
settings = { method = "tract", mu_s = 0.0 }
cell = [{ nfe = 1 }]

[[row]]
id = "btd-96m"
label = "BTD-96M"
settings = { method = "btd" }
cell = [{ nfe = 1 }]
"""
    (tmp_path / "mine.toml").write_text(example + others, encoding="utf-8")
    table = load_tables(tmp_path)["mine"]
    assert table.cells["tract-96m/1"].published.value == 5.02
    for kind in typing.get_args(Claim.model_fields["test"].annotation):
        assert f"| `{kind}` |" in page


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no tables"):
        load_tables(tmp_path)
