"""Components: this package's and others' found in the same way, by name, and no broken one in anybody's way."""

import json
import subprocess
import sys
import textwrap
import tomllib
from importlib import import_module
from importlib.metadata import distribution as installed_distribution
from pathlib import Path
from pkgutil import iter_modules
from typing import ClassVar

import pytest
import torch
from plugin_data import DATASET, EXTRACTOR, METHOD, NETWORK, PROCESS, PROCESS_WORKLOAD, QUICK, WORKLOAD, distribution
from report_data import ENVIRONMENT
from store_data import add, record

from tractbench import plugins
from tractbench.config.resolve import resolve
from tractbench.diffusion.processes import Process, load_process, process_of
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.base import Extractor, load_extractor
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.scorer import make_scorer, reference_hash
from tractbench.method import Method
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network, network_class
from tractbench.pipeline.cell import identify
from tractbench.registry import load_dataset, load_method
from tractbench.results.record import RecordedConfig
from tractbench.results.store import Store
from tractbench.seeds import generator

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def again():
    """Whatever this process knows of distributions is forgotten, as another process would not know it."""
    for name in [n for n, module in sys.modules.items() if "/site/" in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]
    plugins.forget()


def method_plugin(folder, name="halfway-plugin", source=METHOD, entry="half-way"):
    return distribution(folder, name, [("methods", entry, f"{name.replace('-', '_')}.method:Halfway")], method=source)


def network_plugin(folder):
    entries = [("networks", "Thin-Net", "thin_plugin.net:Thin"), ("workloads", "thin", "thin_plugin.paths:FILE")]
    paths = 'from pathlib import Path\nFILE = Path(__file__).with_name("work.toml")\n'
    return distribution(folder, "thin-plugin", entries, net=NETWORK, work=WORKLOAD, paths=paths)


def process_plugin(folder):
    method = METHOD.replace("half-way", "half_way").replace(
        "    strength", '    processes: ClassVar = ("vp-short",)\n        strength'
    )
    entries = [
        ("processes", "vp-short", "short_plugin.short:Short"),
        ("methods", "half_way", "short_plugin.own:Halfway"),
    ]
    entries += [("workloads", "short", "short_plugin.short:FILE")]
    return distribution(folder, "short-plugin", entries, short=PROCESS, own=method, work=PROCESS_WORKLOAD)


def cell_of(**settings):
    return identify(*resolve({"dataset": "digits", "tier": "smoke", **settings}))


# This package's own


def test_the_components_of_this_package_are_registered_as_pyproject_says():
    written = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]
    found = {}
    for entry in installed_distribution("tractbench").entry_points:
        if entry.group.startswith("tractbench."):
            found.setdefault(entry.group, {})[entry.name] = entry.value
    assert found == written, "install the checkout again: pip install -e ."


def classes(package, base):
    """The classes of a package's modules, itself among them, that are of a kind and have a name."""
    root = import_module(package)
    for module in [root, *(import_module(f"{package}.{m.name}") for m in iter_modules(getattr(root, "__path__", ())))]:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, base) and isinstance(vars(value).get("name"), str):
                yield value


@pytest.mark.parametrize(
    ("kind", "package", "base"),
    [("methods", "tractbench.methods", Method), ("extractors", "tractbench.evaluation.extractors", Extractor),
     ("processes", "tractbench.diffusion.processes", Process)],
)  # fmt: skip
def test_no_component_of_this_package_is_forgotten(kind, package, base):
    names = {value.name for value in classes(package, base)}
    assert names
    assert names == {
        offers[0].name for offers in plugins.components(kind).values() if "tractbench " in offers[0].origin
    }


def test_components_are_found_where_importlib_metadata_finds_distributions(monkeypatch):
    """It does so in the standard library's place once anything imports it, such as mlflow."""
    theirs = pytest.importorskip("importlib_metadata", reason="diffusers, of the test extra, brings it")
    monkeypatch.setattr("tractbench.plugins.lookup.distributions", theirs.distributions)
    plugins.forget()
    assert load_method("tract") is TRACT
    monkeypatch.undo()
    plugins.forget()


def test_names_are_read_with_hyphens_and_capitals():
    assert load_method("TRACT") is TRACT
    assert load_method("tract-edm").name == "tract_edm"
    assert network_class("Song-UNet") is network_class("song_unet")


def test_a_checkout_that_was_installed_before_its_components_were_registered_says_so(monkeypatch, tractbench):
    monkeypatch.setattr("tractbench.plugins.lookup._distributions", lambda site: [])
    plugins.forget()
    try:
        with pytest.raises(
            ConfigError, match=r"unknown process 'vp': not even tractbench's own .* 'pip install -e \.'"
        ):
            load_process("vp")
        assert "not even tractbench's own are registered" in tractbench("list", "methods").err
    finally:
        plugins.forget()


def test_a_module_that_was_added_after_the_checkout_was_installed_is_named(monkeypatch):
    monkeypatch.delitem(plugins.components("methods"), "tract")
    with pytest.raises(ConfigError, match=r"tractbench\.methods\.tract is there, but not registered; .* 'pip install"):
        load_method("Tract")
    with pytest.raises(ConfigError, match="unknown method 'trac/t'; "):
        load_method("trac/t")


def test_where_an_editable_installation_lies_is_no_part_of_a_plugin(site):
    method_plugin(site)
    record = "halfway_plugin/__init__.py,,\n__editable___halfway_finder.py,,\n"
    (site / "halfway_plugin-1.0.dist-info" / "RECORD").write_text(record)
    hashes = set()
    for place in ("/home/me/plugin", "/srv/plugin"):
        (site / "__editable___halfway_finder.py").write_text(f"MAPPING = {{'halfway_plugin': '{place}'}}\n")
        again()
        hashes.add(plugins.distribution_hash(load_method("half-way")))
    (site / "halfway_plugin" / "__init__.py").write_text("changed = True\n")
    again()
    assert len(hashes) == 1
    assert plugins.distribution_hash(load_method("half-way")) not in hashes


# Others', one of each kind


def test_a_method_of_another_distribution_runs_like_a_built_in_one(site, tractbench):
    method_plugin(site)
    assert "half-way" in {m["name"] for m in tractbench("list", "methods", "--json").json}
    run = ("run", "--method", "half_way", *QUICK, "--set", "strength=0.25", "--json")
    assert tractbench(*run).json["status"] == "done"
    assert "did you mean 'half-way'" in tractbench("run", "--method", "halfwey", "--dataset", "digits").err


def test_a_data_set_of_another_distribution(site, tractbench):
    distribution(site, "dots", [("datasets", "two-dots", "dots.data:TwoDots")], data=DATASET)
    assert load_dataset("two-dots").name == "two_dots"
    assert "two_dots" in {d["name"] for d in tractbench("list", "datasets", "--json").json}
    assert resolve({"method": "tract", "dataset": "two-dots"})[0].teacher == "exact"


def test_a_network_of_another_distribution_and_a_workload_that_adds_it_to_a_data_set(site, tractbench):
    package = network_plugin(site)
    digits = load_dataset("digits")
    assert next(iter(digits.workload.networks)) == "mlp", "what is added is never the usual one"
    assert digits.network("thin-8", "vp").arguments == {"width": 8, "channels": 1, "size": 8}
    settings = {"method": "tract", "schedule": "16,16,4,1", "student": "thin-8"}
    first = cell_of(**settings)
    assert first.student != cell_of(**settings | {"student": "mlp"}).student
    (package / "other.py").write_text("changed = True\n")
    again()
    assert cell_of(**settings).student != first.student
    network = build_network("thin_net", digits.network("thin-8", "vp").arguments, generator("tests", "thin"))
    assert network(torch.zeros(3, 1, 8, 8), torch.zeros(3)).shape == (3, 1, 8, 8)
    assert {"name": "thin", "from": "thin-plugin 1.0"} in tractbench("list", "workloads", "--json").json


def test_a_process_of_another_distribution_on_an_existing_data_set(site, tractbench):
    package = process_plugin(site)
    assert load_process("VP_short").sigma_min == pytest.approx(torch.e**-5)
    assert process_of("x0").name == "vp", "a built-in one comes first"
    settings = {"method": "half_way", "dataset": "mixture2d", "schedule": "16,16,4", "student": "short-mlp"}
    first = cell_of(**settings)
    assert (first.process.name, first.config.teacher) == ("vp-short", "exact")
    (package / "other.py").write_text("changed = True\n")
    again()
    assert cell_of(**settings).student != first.student
    run = ("run", "--method", "half_way", "--dataset", "mixture2d", *QUICK[2:4], "--schedule", "16,16,4", *QUICK[6:])
    done = tractbench(*run, "--set", "student=short-mlp", "--json")
    assert done.json["status"] == "done", done.out + done.err


def test_a_feature_extractor_of_another_distribution(site):
    package = distribution(site, "rows", [("extractors", "Row-Means", "rows.rows:Rows")], rows=EXTRACTOR)
    digits, protocol = load_dataset("digits"), load_protocol("raw+row-means")
    assert protocol.metrics == (*load_protocol("raw").metrics, "fd_row_means", "fd_row_means_held_out")
    images = digits.held_out[:50]
    features = load_extractor("row_means", digits)(images)
    assert torch.equal(features, digits.decode(images).double().mean(-1).flatten(1))
    scores = make_scorer(digits, protocol, 50, 50).score([images])
    assert scores["fd_row_means"] > 0
    assert reference_hash(digits, load_protocol("raw"), samples=50) != reference_hash(digits, protocol, samples=50)
    first = cell_of(method="ddim", protocol="raw+row_means")
    assert first.id != cell_of(method="ddim").id
    assert first.student == cell_of(method="ddim").student
    (package / "other.py").write_text("changed = True\n")
    again()
    assert cell_of(method="ddim", protocol="raw+row-means").id != first.id


def test_extractors_are_added_to_protocols_that_compare_with_images():
    with pytest.raises(ConfigError, match=r"protocol 'exact' has its own features; .* raw\+pixel"):
        load_protocol("exact+pixel")
    with pytest.raises(ConfigError, match="name extractors that 'raw' has not"):
        load_protocol("raw+Pixel")
    with pytest.raises(ConfigError, match="unknown feature extractor 'none'"):
        make_scorer(load_dataset("digits"), load_protocol("raw+none"), 10, 10)


def test_a_plugins_whole_distribution_is_part_of_its_students_identity(site):
    package = method_plugin(site)
    before = cell_of(method="half-way")
    (package / "helper.py").write_text("# another file of it\n")
    again()
    after = cell_of(method="half-way")
    assert after.student != before.student
    assert after.id != before.id


# Broken ones


def test_a_broken_plugin_is_named_with_its_error_and_stops_nothing_else(site, tractbench):
    entries = [(kind, f"broken-{kind}", "torn.nothing:Thing") for kind in plugins.WORDS]
    distribution(site, "torn", entries, nothing="raise RuntimeError('out of\\n luck')\n")
    listed = {m["name"]: m for m in tractbench("list", "methods", "--json").json}
    assert "torn.nothing:Thing of torn 1.0" in listed["broken-methods"]["error"]
    assert "RuntimeError: out of luck" in listed["broken-methods"]["error"]
    assert listed["tract"]["summary"] == TRACT.summary
    for kind in plugins.WORDS:
        assert f"broken-{kind}" in tractbench("list", kind).out
    findings = {finding["name"]: finding for finding in tractbench("doctor", "--json").json}
    assert all(not findings[kind]["good"] and "out of luck" in findings[kind]["detail"] for kind in plugins.WORDS)
    assert cell_of(method="tract").student
    asked = tractbench("run", "--method", "broken_methods", "--dataset", "digits")
    assert (asked.code, len(asked.err.splitlines())) == (2, 1)
    assert "RuntimeError: out of luck" in asked.err
    with pytest.raises(ConfigError, match=r"no network 'thin'.*broken-workloads = .*out of luck"):
        load_dataset("digits").network("thin", "vp")


def test_metadata_that_cannot_be_read_are_one_distributions_own(site, tractbench):
    method_plugin(site)
    package = distribution(site, "torn", [])
    (package.parent / "torn-1.0.dist-info" / "entry_points.txt").write_text("[tractbench.methods]\nno equals sign\n")
    again()
    assert {"tract", "half-way"} <= {m["name"] for m in tractbench("list", "methods", "--json").json}
    assert "the entry points of torn 1.0 cannot be read" in tractbench("list", "methods").err
    assert "torn 1.0" in next(f["detail"] for f in tractbench("doctor", "--json").json if f["name"] == "plugins")


def test_two_of_one_name_are_refused_by_name_and_shown(site, tractbench):
    method_plugin(site)
    method_plugin(site, "other-plugin", entry="Half_Way")
    with pytest.raises(
        ConfigError, match=r"'(half-way|Half_Way)' is offered by (halfway|other)-plugin 1\.0 and \w+-plugin 1\.0"
    ):
        load_method("half-way")
    assert cell_of(method="tract").student
    detail = next(f for f in tractbench("doctor", "--json").json if f["name"] == "methods")
    assert not detail["good"]
    assert "is offered by" in detail["detail"]


def test_nobody_takes_a_built_in_ones_name(site):
    method_plugin(site, source=METHOD.replace("half-way", "tract"), entry="tract")
    with pytest.raises(ConfigError, match=r"method 'tract' is offered by tractbench .* and halfway-plugin 1\.0"):
        load_method("tract")
    assert load_method("btd").name == "btd"


@pytest.mark.parametrize(
    ("value", "source", "words"),
    [("odd.thing:pi", "from math import pi", "odd = odd.thing:pi of odd 1.0 is not a Method"),
     ("odd.thing:Halfway", METHOD, "is not a Method named 'odd'"),
     ("odd.thing:Gone", METHOD, "cannot be imported .*Gone"),
     ("odd.thing:x", "raise SystemExit(0)", "cannot be imported .SystemExit: 0")],
)  # fmt: skip
def test_an_entry_point_to_something_else_is_refused(site, value, source, words):
    distribution(site, "odd", [("methods", "odd", value)], thing=source)
    with pytest.raises(ConfigError, match=words):
        load_method("odd")


def test_an_unfinished_class_and_a_network_without_weights_of_its_own_are_refused(site):
    extractor = EXTRACTOR.replace("hash =", "other =")
    net = NETWORK.replace("initialise", "other")
    entries = [("extractors", "row-means", "odd.rows:Rows"), ("networks", "thin", "odd.net:Thin")]
    distribution(site, "odd", entries, rows=extractor, net=net)
    with pytest.raises(ConfigError, match="is not finished: define hash"):
        load_extractor("row-means", load_dataset("digits"))
    with pytest.raises(ConfigError, match="give it initialise"):
        build_network("thin", {"channels": 1, "size": 2, "width": 2}, generator("tests"))


def test_a_workload_changes_nothing_that_a_data_set_has(site):
    package = network_plugin(site)
    (package / "work.toml").write_text(textwrap.dedent(WORKLOAD).replace("thin-8", "mlp"))
    again()
    digits = load_dataset("digits")
    assert digits.network("mlp", "vp").network == "mlp"
    with pytest.raises(ConfigError, match=r"work.toml: networks.mlp: data set 'digits' has it already"):
        digits.network("thin", "vp")


def test_a_method_without_a_target_says_so():
    class Unfinished(Method):
        name: ClassVar[str] = "unfinished"
        summary: ClassVar[str] = ""

    with pytest.raises(ConfigError, match="implement target"):
        Unfinished().target(None, None, 0.0, None)


# Files that are not installed


@pytest.fixture
def file(site, tmp_path):
    written = tmp_path / "mine.py"
    written.write_text(textwrap.dedent(METHOD))
    return written


def test_a_file_of_ones_own_is_a_plugin_and_stands_in_the_recorded_command(file, tractbench):
    run = ("run", "--method", "half-way", *QUICK, "--json")
    done = tractbench(*run, "--plugin", "mine.py").json
    found = json.loads((Path(done["run_dir"]) / "record.json").read_text())
    assert f"--plugin {file}" in found["command"]
    assert tractbench(*found["command"].split()[1:], "--json").json["reused"]
    assert "unknown method 'half-way'" in tractbench(*run).err, "what one command is given another does not have"
    plugins.use_files([file])
    assert found["hashes"]["method_source"] == plugins.distribution_hash(load_method("half-way"))


def test_a_files_content_is_part_of_the_identity(file):
    plugins.use_files([file])
    first = cell_of(method="half-way")
    file.write_text(file.read_text() + "# changed\n")
    assert cell_of(method="half-way").student == first.student, "what was executed counts"
    plugins.forget()
    assert cell_of(method="half-way").student != first.student


def test_files_from_the_environment_and_the_other_kinds(site, tmp_path, tractbench, monkeypatch):
    sources = {"dots": DATASET, "rows": EXTRACTOR, "short": PROCESS}
    sources["thin"] = NETWORK.replace("class Thin(nn.Module):", 'class Thin(nn.Module):\n        name = "thin-net"')
    files = []
    for name, source in sources.items():
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text(textwrap.dedent(source))
    files.append(tmp_path / "mine.toml")
    files[-1].write_text(textwrap.dedent(WORKLOAD))
    monkeypatch.setenv("TRACTBENCH_PLUGINS", ":".join(map(str, files)))
    for kind, name in (("datasets", "two_dots"), ("extractors", "row-means"), ("processes", "vp-short"),
                       ("networks", "thin-net"), ("workloads", "mine")):  # fmt: skip
        assert name in {row["name"] for row in tractbench("list", kind, "--json").json}
    assert load_dataset("digits").network("thin-8", "vp").network == "thin-net"


@pytest.mark.parametrize(
    ("source", "words"),
    [(None, "cannot read plugin"), ("x = (", "SyntaxError"), ("import nowhere", "No module named 'nowhere'"),
     ("x = 1", "defines no component"), ("raise SystemExit(3)", "SystemExit: 3")],
)  # fmt: skip
def test_a_file_that_cannot_be_used_ends_a_run_and_is_named_by_listings(site, tmp_path, tractbench, source, words):
    if source is not None:
        (tmp_path / "bad.py").write_text(source)
    run = tractbench("run", "--method", "tract", "--dataset", "digits", "--plugin", "bad.py")
    assert (run.code, len(run.err.splitlines())) == (2, 1)
    assert words in run.err
    listed = tractbench("list", "methods", "--plugin", "bad.py", "--json")
    assert "tract" in {m["name"] for m in listed.json}
    assert words in listed.err


def test_a_suites_jobs_get_the_files(file, tractbench, tmp_path, monkeypatch):
    from tractbench.pipeline import suite_job
    from tractbench.pipeline.suite import Options, Suite

    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "own.toml").write_text(TABLE)
    suite = ("suite", "--table", "own", "--tables", "tables", "--plugin", "mine.py")
    planned = tractbench(*suite, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    assert "half-way" in planned.out
    assert "half-way" in tractbench("explain", "own/half/1", "--tables", "tables", "--plugin", "mine.py").out
    batch = Suite([], Store(tmp_path / "runs", create=True), tmp_path, Options())._batch([], alone=True)
    plugins.use_files(())
    monkeypatch.setattr(suite_job, "distribute", lambda: None)
    batch()
    assert plugins.used_files() == (file,)


TABLE = """
title = "One run"
dataset = "digits"
tier = "smoke"
protocol = "raw"
metric = "fd_pixel"
training_seeds = "0"
settings = { samples = 20, sampling_seeds = "0", chunk = 10 }
[[row]]
id = "half"
label = "Halfway"
settings = { method = "half-way", budget = "1K" }
cell = [{ nfe = 1 }]
"""


# Results that are older than what is installed


def test_results_of_plugins_that_are_gone_are_still_shown(tmp_path, tractbench):
    store = Store(Path("runs"), create=True)
    store.make()
    config = resolve({"method": "tract", "dataset": "digits"})[0]
    gone = {"method": "gone-method", "dataset": "gone-data", "process": "gone-process", "protocol": "raw+gone-space",
            "options": {"strength": 0.5}}  # fmt: skip
    one = record(config=RecordedConfig.of(config.model_copy(update=gone)), environment=ENVIRONMENT)
    add(store, one)
    (store.student_folder(one.student) / "loss.csv").write_text("step,phase,images,loss\n1,1,8,0.5\n2,1,16,0.25\n")
    for arguments in (("list", "runs"), ("report", "--format", "csv"), ("report", "--format", "markdown"),
                      ("report", "--format", "html", "--out", "-"), ("explain", one.identity[:8])):  # fmt: skip
        shown = tractbench(*arguments)
        assert shown.code == 0, shown.err
        assert "gone-method" in shown.out
    assert tractbench("verify", "--table", "digits").code == 0
    assert tractbench("store", "check").code in (0, 1)


def test_help_imports_no_component():
    code = "import sys, tractbench.cli; sys.exit('torch' in sys.modules or 'tractbench.nets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
