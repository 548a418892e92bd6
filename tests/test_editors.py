"""What editors and other systems do to text files: a byte order mark, CRLF and blank lines are no damage."""

import tomllib
from pathlib import Path

import pytest
from store_data import record

from tractbench.claims.loading import load_tables, shipped_tables
from tractbench.config.resolve import read_config_file
from tractbench.datasets.workload import WORKLOADS, load_workload
from tractbench.nets.build import build_network
from tractbench.results.index import INDEX
from tractbench.results.plans import Plan, register, registered_plans
from tractbench.results.store import RECORD, Store
from tractbench.seeds import generator
from tractbench.teachers.card import TeacherCard, read_card, write_card


def as_edited(path):
    """A text file as Windows' editors save it: a byte order mark, CRLF, a blank line at either end."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_bytes("\r\n".join(["\ufeff", *lines, "", ""]).encode())
    return path


def test_configs(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('method = "tract"\n\nmu_s = 0.9\n')
    before = read_config_file(path)
    assert read_config_file(as_edited(path)) == before == {"method": "tract", "mu_s": 0.9}


def test_cards(tmp_path):
    arguments = {"channels": 1, "size": 8, "width": 4, "blocks": 1, "embedding": 4}
    network = build_network("mlp", arguments, generator("tests"))
    card = write_card(TeacherCard, tmp_path, network, name="a", summary="a", dataset="digits", network="mlp",
                      arguments=arguments, licence="x", command="x", process="vp", parameterisation="x0")  # fmt: skip
    path = tmp_path / "a.toml"
    assert tomllib.loads(path.read_text())["sha256"] == card.sha256
    assert read_card(str(as_edited(path)), TeacherCard)[0] == card


def test_tables_and_workloads(tmp_path):
    (tmp_path / "tables").mkdir()
    for source, target in ((shipped_tables() / "digits.toml", tmp_path / "tables" / "digits.toml"),
                           (WORKLOADS / "digits.toml", tmp_path / "digits.toml")):  # fmt: skip
        target.write_text(Path(source).read_text(encoding="utf-8"))
        as_edited(target)
    assert load_tables(tmp_path / "tables")["digits"] == load_tables()["digits"]
    exclude = {"source"}
    theirs, ours = load_workload(tmp_path / "digits.toml"), load_workload(WORKLOADS / "digits.toml")
    assert theirs.model_dump(exclude=exclude) == ours.model_dump(exclude=exclude)


@pytest.mark.parametrize("name", [INDEX, RECORD])
def test_records(tmp_path, name):
    store = Store(tmp_path / "runs", create=True)
    for number in range(2):
        store.write(record(str(number), seed=number))
    before = store.records()
    as_edited(store.root / name if name == INDEX else store.root / record("0").folder / name)
    if name == INDEX:
        assert store.index_is_current()
    again = Store(tmp_path / "runs")
    assert sorted(again.records(), key=lambda r: r.config.seed) == sorted(before, key=lambda r: r.config.seed)
    assert not again.damaged


def test_plans(tmp_path):
    plan = Plan(table="t", tier="small", protocol="raw", metric="m", seeds=(0,), looks=(1,), cells={}, claims={})
    registered = register(tmp_path, plan)
    for path in (tmp_path / "plans").glob("*.json"):
        as_edited(path)
    assert registered_plans(tmp_path) == ([registered], [])
