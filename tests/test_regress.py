import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from tractbench.errors import ConfigError, RunFailedError
from tractbench.plugins import distribution_hash, forget, use_files
from tractbench.registry import load_method, method_names
from tractbench.regress import compare as comparing
from tractbench.regress import update as updating
from tractbench.regress.baseline import SHIPPED, Baseline, CellBaseline, Quantity, read_baseline, write_baseline
from tractbench.regress.cells import Measured, standard_cells
from tractbench.regress.compare import compare, compare_all
from tractbench.regress.machine import Machine
from tractbench.regress.rounding import UNIT, random_rounding

ROOT = Path(__file__).parents[1]
KEPT = CellBaseline(settings={}, weights="a", quantities={"error": Quantity(value=2.0, tolerance=0.5)})
HERE = Machine(processor="p", features="avx2", vectors="AVX2", system="Linux x86_64", packages={"torch": "2"})


@pytest.mark.parametrize(("holds", "weights", "value", "equal", "ratio"), [
    ("bits", "a", 2.0, True, 0.0), ("bits", "b", 2.0, False, 0.0), ("bits", "a", 2.0 + 1e-15, False, 1e-15),
    ("tolerance", "b", 2.4, True, 0.8), ("tolerance", "a", 2.6, False, 1.2), ("bits", "a", 1.0, False, 2.0),
])  # fmt: skip
def test_bits_hold_where_they_were_made_and_the_tolerance_elsewhere(holds, weights, value, equal, ratio):
    found = compare("cell", KEPT, Measured(weights, {"error": value}), holds)
    assert (found.equal, found.holds, bool(found.said)) == (equal, holds, not equal)
    assert found.ratio == pytest.approx(ratio, abs=1e-14)


def test_figures_that_are_not_the_same_ones_differ():
    assert not compare("cell", KEPT, Measured("a", {"loss": 2.0}), "tolerance").equal


@pytest.mark.parametrize(("machine", "threads", "holds"), [
    (HERE, 1, "bits"), (HERE, 2, "tolerance"), (HERE.model_copy(update={"vectors": "AVX512"}), 1, "tolerance"),
])  # fmt: skip
def test_the_kind_of_machine_decides_what_holds(monkeypatch, machine, threads, holds):
    monkeypatch.setattr(comparing, "threads", lambda settings: threads)
    monkeypatch.setattr(comparing, "measure", lambda settings, folder: Measured("a", {"error": 2.0}))
    (found,) = compare_all(Baseline(machine=HERE, cells={"cell": KEPT}), ("cell",), machine)
    assert (found.holds, found.equal) == (holds, True)


@pytest.mark.parametrize("error", [RunFailedError("diverged"), ValueError("needs labels")])
def test_a_run_that_fails_differs_and_the_others_are_compared(monkeypatch, error):
    def measure(settings, folder):
        if settings:
            raise error
        return Measured("a", {"error": 2.0})

    monkeypatch.setattr(comparing, "threads", lambda settings: 1)
    monkeypatch.setattr(comparing, "measure", measure)
    cells = {"failing": KEPT.model_copy(update={"settings": {"method": "x"}}), "right": KEPT}
    failing, right = compare_all(Baseline(machine=HERE, cells=cells), ("failing", "right"), HERE)
    assert (failing.equal, right.equal) == (False, True)
    assert str(error) in failing.said


def test_random_rounding_moves_outputs_by_a_last_place_and_then_no_more():
    layer = nn.Linear(8, 8).requires_grad_(False)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    before = layer(x)
    with random_rounding(0):
        moved = layer(x)
    limit = UNIT * float(before.square().mean().sqrt()) + UNIT * float(before.abs().max())  # and the sum's own rounding
    assert 0 < float((moved - before).abs().max()) <= limit
    assert torch.equal(layer(x), before)


def test_every_built_in_method_and_process_has_cells_in_the_baseline_that_ships():
    kept = read_baseline(SHIPPED)
    built_in = [load_method(name) for name in method_names() if distribution_hash(load_method(name)) is None]
    assert {name for kind in built_in for name, _ in standard_cells(kind)} <= set(kept.cells)
    assert {cell.settings["method"] for cell in kept.cells.values()} == {kind.name for kind in built_in}
    conditional = {c.settings["method"] for c in kept.cells.values() if "conditional" in str(c.settings["dataset"])}
    assert conditional == {kind.name for kind in built_in}
    assert kept.revisions
    assert kept.machine is not None
    assert all(cell.quantities for cell in kept.cells.values())


@pytest.mark.parametrize(("text", "said"), [
    ("{", "Invalid JSON"), ('{"format": 2}', "format"), ('{"cells": {"a": {"settings": {}, "weight": 1}}}', "weight"),
])  # fmt: skip
def test_a_file_that_is_no_baseline_is_named(tmp_path, text, said):
    file = tmp_path / "baseline.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"baseline {file}.*{said}.*--update"):
        read_baseline(file)


def test_a_baseline_survives_its_file(tmp_path):
    kept = Baseline(machine=HERE, cells={"cell": KEPT}, tolerance="why")
    write_baseline(tmp_path / "b.json", kept)
    assert read_baseline(tmp_path / "b.json") == kept


# the command


OWN = """
from typing import ClassVar
from tractbench.methods.tract import TRACT

class Own(TRACT):
    name: ClassVar[str] = "own"
    summary: ClassVar[str] = "for tests"
"""


def changed_target(plugin):
    plugin.write_text(
        OWN
        + """
    def target(self, batch, phase, progress, nets):
        made = super().target(batch, phase, progress, nets)
        return type(made)(1.01 * made.x0, made.weight)
"""
    )
    forget()


def test_a_method_of_ones_own_is_compared_with_a_baseline_of_ones_own(tractbench, tmp_path):
    plugin, file, saved = (tmp_path / name for name in ("own.py", "own.json", "saved.json"))
    plugin.write_text(OWN)
    settings = {
        "method": "own", "dataset": "mixture2d:conditional", "tier": "smoke", "process": "vp", "grid_steps": 4,
        "schedule": [4, 4, 1], "budget": 32, "batch": 8, "samples": 20, "sampling_seeds": [0],
    }  # fmt: skip
    write_baseline(file, Baseline(cells={"tiny": CellBaseline(settings=settings)}))
    options = ("--plugin", plugin, "--baseline", file)
    assert tractbench("regress", *options).code == 2  # there are no figures yet
    made = tractbench("regress", *options, "--update", "--json")
    assert (made.code, made.json["cells"], made.json["revision"]["version"]) == (0, ["tiny"], 1)

    same = tractbench("regress", *options, "--json", "--save", saved)
    assert (same.code, same.err) == (0, "")
    assert [(one["holds"], one["equal"], one["bits"]) for one in same.json["cells"]] == [("bits", True, True)]
    assert json.loads(saved.read_text()) == same.json

    changed_target(plugin)
    changed = tractbench("regress", *options)
    assert changed.code == 1
    assert "DIFFERS" in changed.out
    assert tractbench("regress", *options, "--update").code == 2  # why?
    assert tractbench("regress", *options, "--update", "--reason", "larger targets").code == 0
    assert [one.reason for one in read_baseline(file).revisions] == ["the first figures", "larger targets"]
    assert tractbench("regress", *options).code == 0


def test_cells_that_stay_must_be_of_the_same_kind_of_machine(monkeypatch):
    monkeypatch.setattr(updating, "measure", lambda settings, folder: Measured("b", {"error": 3.0}))
    monkeypatch.setattr(updating, "threads", lambda settings: 1)
    before = Baseline(machine=HERE, cells={"stays": KEPT, "new": KEPT})
    made = updating.update(before, [], lambda name: name == "new", "because", HERE)
    assert (made.cells["stays"], made.cells["new"].weights) == (KEPT, "b")
    assert made.cells["new"].quantities["error"].value == 3.0
    other = HERE.model_copy(update={"processor": "q"})
    with pytest.raises(ConfigError, match="stays would stay as another kind of machine made them"):
        updating.update(before, [], lambda name: name == "new", "because", other)


def test_what_cannot_be_meant_ends_with_2(tractbench, tmp_path):
    assert tractbench("regress", "--reason", "none").code == 2
    assert tractbench("regress", "--method", "tractt").code == 2
    assert tractbench("regress", "--baseline", tmp_path / "own.json", "--update").code == 2  # no method of one's own


# the script of CI and of the Action


@pytest.fixture(autouse=True)
def _no_plugins():
    yield
    use_files(())
    forget()


@pytest.fixture
def called(tmp_path):
    """Runs the script with a stand-in for tractbench that ends as it is told: status, and the commands that it got."""
    stub, log = tmp_path / "tractbench", tmp_path / "log"
    stub.write_text(
        f'#!/usr/bin/env bash\necho "$@" >>{log}\nif [ "$1" = check ]; then exit $CHECK; fi\nexit $REGRESS\n'
    )
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)

    def run(*methods, check=0, regress=0, **variables):
        log.write_text("")
        environment = os.environ | {"TRACTBENCH": str(stub), "REPORT": str(tmp_path / "report"), "CHECK": str(check),
                                    "REGRESS": str(regress)} | variables  # fmt: skip
        done = subprocess.run(
            [ROOT / "scripts/regress.sh", *methods], env=environment, check=False, capture_output=True
        )
        return done.returncode, log.read_text().splitlines()

    return run


def test_the_script_checks_methods_and_compares(called, tmp_path):
    report = tmp_path / "report"
    assert called() == (0, [f"regress --save {report}/regress.json"])
    code, lines = called("mine", "other", PLUGIN="a b.py", BASELINE="mine.json")
    assert code == 0
    assert lines == [
        "check mine --plugin a b.py", "check other --plugin a b.py",
        f"regress --save {report}/regress.json --plugin a b.py --baseline mine.json --method mine --method other",
    ]  # fmt: skip
    assert (report / "check-mine.txt").exists()


@pytest.mark.parametrize(("check", "regress"), [(0, 1), (1, 0), (2, 1), (1, 2)])
def test_the_script_ends_with_the_worse_status(called, check, regress):
    assert called("mine", check=check, regress=regress)[0] == max(check, regress)


def test_ci_and_the_action_run_the_same_script():
    assert "scripts/regress.sh" in (ROOT / ".ci/run").read_text()
    action = (ROOT / "action.yml").read_text()
    assert '"$GITHUB_ACTION_PATH/scripts/regress.sh"' in action
    assert "${{ inputs." not in "".join(line for line in action.splitlines() if "run:" in line)
