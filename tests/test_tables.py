"""The paper's tables as data: every published figure is there, every cell is a run, damage is named."""

import re
import typing
from pathlib import Path

import pytest

from tractbench.claims.claims import Claim
from tractbench.claims.loading import load_tables, shipped_tables
from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError

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


CIFAR10 = [
    # row, NFE, value, printed deviation, budget in images, the figure's budget, mu_I
    ("tract-edm-256m", 1, 3.78, 0.01, 256 << 20, "same", 0.99999),
    ("tract-edm-256m", 2, 3.55, 0.01, 256 << 20, "same", 0.99999),
    ("tract-edm-96m", 1, 4.17, 0.03, 96 << 20, "same", 0.99997),
    ("tract-edm-96m", 2, 3.75, 0.02, 96 << 20, "same", 0.99997),
    ("tract-256m", 1, 4.45, 0.05, 256 << 20, "same", 0.99999),
    ("tract-256m", 2, 3.32, 0.02, 256 << 20, "same", 0.99999),
    ("tract-96m", 1, 5.02, None, 96 << 20, "same", 0.99997),
    ("btd-96m", 1, 9.12, None, 96 << 20, "other", None),
    ("btd-96m", 2, 4.51, None, 96 << 20, "other", None),
]
IMAGENET64 = [
    ("tract-96m", 1, 7.43, 0.07, 96 << 20, "same", 0.99995),
    ("tract-edm-96m", 1, 7.52, 0.05, 96 << 20, "same", 0.99995),
    ("tract-edm-96m", 2, 4.97, 0.03, 96 << 20, "unknown", 0.99995),
    ("btd-96m", 1, 17.5, None, 96 << 20, "unknown", None),
]
ABLATED = [
    # method, schedule, mu_S, mu_I, budget, value
    ("tract", (1024, 32, 1), 0.0, 0.99995, 96, 6.32),
    ("tract", (1024, 32, 1), 0.5, 0.99995, 96, 5.24),
    ("tract", (1024, 32, 1), 0.9, 0.99995, 96, 6.04),
    ("tract", (1024, 32, 1), 0.99, 0.99995, 96, 7.61),
    ("tract", (1024, 32, 1), 0.5, 0.999, 96, 6.91),
    ("tract", (1024, 32, 1), 0.5, 0.9999, 96, 5.5),
    ("tract", (1024, 32, 1), 0.5, 0.99999, 96, 8.73),
    ("tract", (1024, 1), 0.5, 0.99995, 96, 14.40),
    ("tract", (4096, 256, 16, 1), 0.5, 0.99995, 96, 6.06),
    ("tract", (4096, 512, 64, 8, 1), 0.5, 0.99995, 96, 7.27),
    ("btd", (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1), 0.5, 0.99995, 96, 5.95),
    ("tract", (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1), 0.5, 0.99995, 96, 6.8),
    ("tract", (1024, 32, 1), 0.5, 0.99997, 96, 5.02),
    ("tract", (1024, 32, 32, 1), 0.5, 0.99999, 336, 6.47),
]


@pytest.mark.parametrize(("name", "rows"), [("cifar10", CIFAR10), ("imagenet64", IMAGENET64)])
def test_published_figures_stand_with_their_row_and_settings(name, rows):
    found = {cell.ref: cell for cell in figures(name)}
    assert len(found) == len(rows)
    for row, nfe, value, deviation, budget, made_at, mu_i in rows:
        cell = found[f"{row}/{nfe}"]
        published, config = cell.published, cell.config
        assert (published.value, published.error, published.budget) == (value, deviation, made_at)
        assert (config.budget, config.mu_i, config.nfe, config.samples) == (budget, mu_i, nfe, 50_000)
        assert config.sampling_seeds == (0, 1, 2, 3, 4)


def test_published_ablations_stand_with_their_settings():
    cells = figures("cifar10-ablations")
    found = [
        (c.config.method, c.config.schedule, c.config.mu_s, c.config.mu_i, c.config.budget >> 20, c.published.value)
        for c in cells
    ]
    assert sorted(found) == sorted(ABLATED)
    assert all(cell.published.error is None and cell.published.budget == "same" for cell in cells)


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
        (("share = 0.05, reason", "share = 0.05, why"), "margin"),
        (("share = 0.05,", "times = 2.0,"), "give one of them"),
        (("margin = { share = 0.05, reason", "margin = 0.3\ntitel = { reason"), "a margin is relative or measured"),
        (('training_seeds = "0-4"', 'training_seeds = "0-4"\nlooks = [10, 5]'), "rising numbers of training seeds"),
        (("[[row]]", "[[row]"), "not TOML"),
        (('method = "btd"', 'metod = "btd"'), "'btd-96m/1': no method given"),
        (("mu_i = 0.99999 }", "mu_j = 0.99999 }"), "'tract-edm-256m/1': unknown setting 'mu_j'"),
        (('dataset = "cifar10"', 'dataset = "cifr10"'), "did you mean 'cifar10'"),
        (('metric = "fid"', 'metric = "fidd"'), "did you mean 'fid'"),
        (('protocol = "tract"', 'protocol = "trakt"'), "did you mean 'tract'"),
        (('training_seeds = "0-4"', "training_seeds = [0, 0]"), "training seed '0' is there twice"),
        (('budget = "96M" }', 'budget = "96M", protocol = "edm" }'), "protocol is one for all cells"),
        (('budget = "96M" }', 'budget = "96M", samples = 500 }'), "it belongs in the file's [settings]"),
        (("x = 268435456", "x = 268435455.0"), "axis 'budget': x 268435455.0 is not the budget"),
        (("x = 268435456", 'x = "256M"'), "axis 'budget': x 256M is not the budget"),
        (('left = "tract-96m/1"', 'left = "btd-96m/1"'), "compares 'btd-96m/1' with itself"),
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
    (tmp_path / "mine.toml").write_text(example, encoding="utf-8")
    table = load_tables(tmp_path)["mine"]
    assert table.cells["tract-96m/1"].published.value == 5.02
    for kind in typing.get_args(Claim.model_fields["test"].annotation):
        assert f"| `{kind}` |" in page


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no tables"):
        load_tables(tmp_path)
