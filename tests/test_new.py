"""A package that ``tractbench new`` writes works before anything of it is changed."""

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from plugin_data import QUICK

from tractbench import plugins
from tractbench.evaluation.extractors.base import load_extractor
from tractbench.registry import load_dataset, load_method


def written(tractbench, what, name, into):
    done = tractbench("new", what, name, "--into", into)
    assert done.code == 0, done.err
    assert f"pip install -e {into}" in done.err
    return into / f"tractbench-{name.lower().replace('_', '-')}"


def installed(folder, site):
    """Put a package on the site as an editable installation would, with the entry points that its pyproject says."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{group}]\n{name} = {value}" for group, entries in project["entry-points"].items()
             for name, value in entries.items()]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(lines))
    sys.path.insert(1, str(folder / "src"))
    plugins.forget()
    return project


def test_a_new_method_is_found_and_runs(site, tmp_path, tractbench):
    folder = written(tractbench, "method", "My-Method", tmp_path / "made")
    installed(folder, site)
    kind = load_method("my-method")
    assert kind.__module__ == "tractbench_my_method.method"
    assert all(field.description for field in kind.model_fields.values())
    assert tractbench("run", "--method", "my_method", *QUICK, "--json").json["status"] == "done"


def test_a_new_methods_target_is_where_the_teacher_ends(site, tmp_path, tractbench):
    import torch

    from tractbench.diffusion.processes import VP
    from tractbench.diffusion.solvers import ddim_step
    from tractbench.method import Batch, Nets, Phase, Times

    installed(written(tractbench, "method", "walk", tmp_path), site)
    method, process, phase = load_method("walk")(clip_target=False), VP(), Phase(8, 2)
    index = torch.tensor([8.0, 7.0, 5.0, 4.0, 1.0], dtype=torch.float64)
    ends = torch.tensor([4.0, 4.0, 4.0, 0.0, 0.0], dtype=torch.float64)
    times = Times(index / 8, (index - 1) / 8, ends / 8)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None, None, None]

    def teacher(x_t, t, labels=None):
        return torch.tanh(x_t + t[:, None, None, None])

    found = method.target(Batch(x, times, None, x, x, process), phase, 0.0, Nets(teacher, teacher, teacher))
    landed = ddim_step(process, x, found.x0, times.t, times.t_end)
    for row in range(5):
        one, i = x[row : row + 1], int(index[row])
        while i > ends[row]:
            t, s = torch.tensor([i / 8]).double(), torch.tensor([(i - 1) / 8]).double()
            one, i = ddim_step(process, one, teacher(one, t), t, s), i - 1
        torch.testing.assert_close(landed[row : row + 1], one, rtol=1e-9, atol=1e-9)


def test_a_new_data_set_is_found_and_runs(site, tmp_path, tractbench):
    installed(written(tractbench, "dataset", "three-modes", tmp_path), site)
    data = load_dataset("three_modes")
    assert list(data.workload.tiers) == ["small", "smoke"]
    assert data.draw(4, "x").shape == (4, 2, 1, 1)
    run = ("run", "--method", "tract", "--dataset", "three-modes", "--tier", "smoke", "--schedule", "16,16,1")
    run += ("--budget", "1K", "--samples", "20", "--sampling-seeds", "0", "--json")
    assert tractbench(*run).json["status"] == "done"


def test_a_new_extractor_is_found_and_scores(site, tmp_path, tractbench):
    installed(written(tractbench, "extractor", "strokes", tmp_path), site)
    digits = load_dataset("digits")
    assert load_extractor("strokes", digits)(digits.held_out[:3]).shape == (3, 16)
    found = tractbench("run", "--method", "ddim", *QUICK[:4], "--samples", "20", "--sampling-seeds", "0",
                       "--set", "grid_steps=16", "--protocol", "raw+strokes", "--json")  # fmt: skip
    assert found.json["metrics"]["fd_strokes"]["mean"] > 0


@pytest.mark.parametrize("what", ["method", "dataset", "extractor"])
def test_a_new_package_is_whole_and_clean(tmp_path, tractbench, what):
    folder = written(tractbench, what, "some-thing", tmp_path)
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert names - {"src/tractbench_some_thing/workload.toml"} == {
        "pyproject.toml", "README.md", ".github/workflows/test.yml", "tests/test_some_thing.py",
        "src/tractbench_some_thing/__init__.py", f"src/tractbench_some_thing/{what}.py",
    }  # fmt: skip
    for file in folder.rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text()))
    style = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", folder],
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert style.returncode == 0 or "No module named" in style.stderr, style.stdout
    assert '"check", "some_thing"' in (folder / "tests/test_some_thing.py").read_text()


@pytest.mark.parametrize(
    ("said", "source"),
    [(None, ""), ('{"url": "file:///home/me/tractbench", "dir_info": {"editable": true}}', ""),
     ('{"url": "https://host/a/tractbench.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}',
      "git+https://host/a/tractbench.git@0123abc")],
)  # fmt: skip
def test_the_workflow_installs_the_tractbench_that_wrote_it_or_asks_where_it_is(
    tmp_path, tractbench, monkeypatch, said, source
):
    import_module("tractbench.cli.new")
    found = SimpleNamespace(read_text={"direct_url.json": said}.get)
    monkeypatch.setattr(sys.modules["tractbench.cli.new"], "distribution", {"tractbench": found}.get)
    workflow = (written(tractbench, "method", "asked", tmp_path) / ".github/workflows/test.yml").read_text()
    assert f'TRACTBENCH: "{source}"' in workflow
    assert 'pip install "${TRACTBENCH:?say above where' in workflow


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("method", "../evil"), "give letters, digits and hyphens"), (("method", "class"), "give letters"),
     (("method", "9x"), "a letter first"), (("method", ""), "give letters"),
     (("method", "TRACT"), "method 'tract' is there already, of tractbench"),
     (("metod", "x"), "did you mean 'method'"), (("method", "x", "--into", "file"), "cannot write")],
)  # fmt: skip
def test_a_name_that_cannot_be_is_refused_in_one_line_and_writes_nothing(tractbench, arguments, words):
    Path("file").touch()
    refused = tractbench("new", *arguments)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert words in refused.err
    assert [entry.name for entry in Path().iterdir()] == ["file"]


def test_nothing_is_overwritten(tractbench, tmp_path):
    (tmp_path / "tractbench-mine").mkdir()
    (tmp_path / "tractbench-mine" / "notes.txt").write_text("keep")
    refused = tractbench("new", "method", "mine")
    assert refused.code == 2
    assert "nothing is overwritten" in refused.err
    assert [entry.name for entry in (tmp_path / "tractbench-mine").iterdir()] == ["notes.txt"]
