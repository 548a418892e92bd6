"""Workloads: what the built-in ones say holds together, and a mistake in one is a line with file, key and remedy."""

from itertools import product
from pathlib import Path

import pytest

from tractbench.config.resolve import TIER_FIELDS, resolve
from tractbench.datasets.digits import Digits
from tractbench.datasets.workload import WORKLOADS, Workload, load_workload
from tractbench.errors import ConfigError
from tractbench.nets.architectures import architecture, architectures
from tractbench.nets.build import meta_network
from tractbench.registry import dataset_names, load_dataset, load_method, method_names
from tractbench.teachers.card import FeatureCard, TeacherCard, read_card
from tractbench.teachers.published import published_teacher

DATASETS = [*dataset_names(), "cifar10:conditional", "gaussian:3", "imagenet64:npz"]
WHOLE = """
processes = ["vp", "ve"]
teachers = { vp = "digits-vp" }

[tiers.only]
samples = 50

[networks.mlp]
vp = { network = "mlp", arguments = { width = 8, blocks = 1, embedding = 4 }, parameterisation = "x0" }

[recipes.full]
vp = { network = "mlp", weight_cap = 5.0, steps = 10, batch = 2, lr = 1e-3, ema = 0.9 }
"""


def written(folder, text):
    path = folder / "own.toml"
    path.write_text(text)
    return path


def combinations():
    for name in DATASETS:
        dataset = load_dataset(name)
        for tier, method in product(dataset.workload.tiers, method_names()):
            for process in sorted(set(load_method(method).processes) & set(dataset.workload.teachers)):
                yield pytest.param(name, tier, method, process, id=f"{name} {tier} {method} {process}")


@pytest.mark.parametrize(("dataset", "tier", "method", "process"), list(combinations()))
def test_every_tier_of_every_data_set_is_a_run_of_every_method(dataset, tier, method, process):
    config, _, found = resolve({"dataset": dataset, "tier": tier, "method": method, "process": process})
    settings = found.workload.settings(tier, process)
    assert set(settings) <= TIER_FIELDS
    assert config.samples == settings["samples"]
    assert not config.clip_sample or found.clips


@pytest.mark.parametrize("name", DATASETS)
def test_every_network_of_a_data_set_is_for_its_images_and_classes(name):
    dataset = load_dataset(name)
    for network, processes in dataset.workload.networks.items():
        for process in processes:
            preset = dataset.network(network, process)
            assert (preset.arguments["channels"], preset.arguments["size"]) == (dataset.shape[0], dataset.shape[1])
            assert preset.arguments.get("classes", 0) == dataset.classes
            assert sum(p.numel() for p in meta_network(preset.network, preset.arguments).parameters()) > 0


@pytest.mark.parametrize("process", ["vp", "ve"])
def test_the_shipped_teachers_are_of_the_data_sets_network(process):
    card, preset = read_card(f"digits-{process}", TeacherCard)[0], load_dataset("digits").network("mlp", process)
    assert (card.network, card.arguments) == (preset.network, preset.arguments)
    assert card.parameterisation == preset.parameterisation


def test_the_shipped_classifier_is_of_the_data_sets_network():
    found, card = load_dataset("digits").classifier()[1], read_card("digits-classifier", FeatureCard)[0]
    assert (card.network, card.arguments) == (found.network, found.arguments)


@pytest.mark.parametrize(
    ("name", "network", "process"),
    [("cifar10", "unet", "vp"), ("cifar10", "ncsnpp", "ve"), ("cifar10:conditional", "ncsnpp", "ve"),
     ("imagenet64", "unet", "vp"), ("imagenet64", "adm", "ve")],
)  # fmt: skip
def test_students_can_have_the_published_teachers_network(name, network, process):
    dataset = load_dataset(name)
    card, preset = published_teacher(dataset.workload.teachers.get(process)), dataset.network(network, process)
    assert (card.network, card.arguments) == (preset.network, preset.arguments)
    assert card.parameterisation == preset.parameterisation


def test_architectures_are_known_by_name():
    assert {"google-cifar10", "ncsn++-cifar10", "adm-imagenet64", "mlp"} <= set(architectures())
    with pytest.raises(ConfigError, match="unknown architecture 'adm-imagenet'; did you mean 'adm-imagenet64'"):
        architecture("adm-imagenet")


def test_variants_of_a_data_set_differ_in_what_they_say():
    plain, conditional = load_dataset("cifar10").workload, load_dataset("cifar10:conditional").workload
    assert conditional.teachers == {"ve": "edm-cifar10-cond-ve"}
    assert conditional.model_copy(update={"teachers": plain.teachers, "processes": plain.processes,
                                          "source": plain.source}) == plain  # fmt: skip


def test_a_file_is_read_once():
    assert load_workload(WORKLOADS / "digits.toml") is load_dataset("digits").workload


def test_a_tiers_teacher_is_the_one_that_its_recipe_makes():
    for name, teacher in (("cifar10", "cifar10-ve-smoke"), ("imagenet64:npz", "imagenet64-npz-ve-smoke")):
        config = resolve({"dataset": name, "tier": "smoke", "method": "tract_edm"})[0]
        assert config.teacher == load_dataset(name).trained_teacher("ve", "smoke") == teacher


def test_a_plugins_data_set_names_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Digits, "workload_file", written(tmp_path, WHOLE))
    config = resolve({"dataset": "digits", "method": "tract", "budget": "1K"})[0]
    assert (config.tier, config.samples, config.teacher) == ("only", 50, "digits-vp")
    assert Digits().network("mlp", "vp").arguments == {
        "width": 8, "blocks": 1, "embedding": 4, "channels": 1, "size": 8
    }  # fmt: skip


def test_a_plugins_data_set_may_give_a_value(monkeypatch):
    own = Workload(processes=("vp",), teachers={"vp": "digits-vp"}, tiers={"t": {"samples": 7, "vp": {"batch": 3}}})
    monkeypatch.setattr(Digits, "workload", own)
    config = resolve({"dataset": "digits", "method": "tract", "budget": 6})[0]
    assert (config.samples, config.batch) == (7, 3)


def test_a_data_set_without_a_workload_says_so(monkeypatch):
    monkeypatch.setattr(Digits, "workload_file", None)
    with pytest.raises(ConfigError, match="'digits' has no workload; set its class's workload_file"):
        resolve({"dataset": "digits", "method": "tract"})


MISTAKES = [
    ("[tiers.only]", "[tiers", "not TOML"),
    ("samples = 50", "samples = 2020-01-01", "tiers.only.samples"),
    ("samples = 50", "vq.batch = 3", "tiers.only.vq: a table in a tier is for one of processes"),
    ('["vp", "ve"]', '["vp", "vf"]', "unknown process 'vf'"),
    ("processes", "proceses", "did you mean 'processes'"),
    ("teachers = { vp", "teachers = { vq", "teachers.vq: not one of processes; did you mean 'vp'"),
    ('processes = ["vp", "ve"]', "", "processes is missing; give it"),
    ("steps = 10, ", "", "recipes.full.vp.steps is missing; give it"),
    ("steps = 10", "steps = 0", "recipes.full.vp.steps 0: input should be greater than or equal to 1"),
    ("steps = 10", "stepz = 10", "did you mean 'steps'"),
    ("ema = 0.9 ", "ema = 1.5 ", "recipes.full.vp.ema 1.5: input should be less than 1"),
    ("ema = 0.9 ", 'ema = 0.9, loss = "edn" ', "recipes.full.vp.loss 'edn'"),
    (
        '{ network = "mlp", weight',
        '{ network = "mpl", weight',
        "'mpl': not one of the networks for process 'vp'; did",
    ),
    ('"x0"', '"x1"', "networks.mlp.vp.parameterisation 'x1': not one of process 'vp'; did you mean 'x0'"),
    ('"x0"', '"edm"', "not one of process 'vp'; known: both, x0"),
    ('{ network = "mlp", arg', '{ architecture = "mlpp", arg', "unknown architecture 'mlpp'; did you mean 'mlp'"),
    ('{ network = "mlp", arg', "{ arg", "give architecture = NAME"),
    ("width = 8", "width = { x = 1 }", "networks.mlp.vp.arguments.width"),
    ("processes", 'like = "none.toml"\nprocesses', "none.toml"),
    ("processes", 'source = "x"\nprocesses', "source: no such key"),
    ("[tiers.only]\nsamples = 50", "tiers = {}", "tiers"),
]


@pytest.mark.parametrize(
    ("old", "new", "words"), MISTAKES, ids=[new[:30] or f"no {old[:20]}" for old, new, _ in MISTAKES]
)
def test_a_mistake_in_a_file_is_one_line_with_file_key_and_remedy(tmp_path, old, new, words):
    assert old in WHOLE
    path = written(tmp_path, WHOLE.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_workload(path)
    message = str(caught.value)
    assert words in message
    assert str(path if "none" not in new else path.parent) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("bugdet = 5", "tiers.only: unknown setting 'bugdet'; did you mean 'budget'"),
        ('budget = "lots"', "tiers.only: budget 'lots': a budget is a whole number of images"),
        ('dataset = "x"', "tiers.only: unknown setting 'dataset'"),
        ("lr = 7", "tiers.only: lr 7: input should be less than or equal to 1"),
    ],
)
def test_a_mistake_in_a_tier_names_the_file_too(tmp_path, monkeypatch, setting, words):
    path = written(tmp_path, WHOLE.replace("samples = 50", setting))
    monkeypatch.setattr(Digits, "workload_file", path)
    with pytest.raises(ConfigError) as caught:
        resolve({"dataset": "digits", "method": "tract"})
    assert f"{path}: {words}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_of_the_users_is_not_blamed_on_the_file():
    with pytest.raises(ConfigError) as caught:
        resolve({"dataset": "digits", "method": "tract", "samples": 1})
    assert "toml" not in str(caught.value)


def test_the_package_holds_every_file():
    assert {path.name for path in WORKLOADS.glob("*.toml")} == {
        Path(name).name for name in ("cifar10.toml", "cifar10-conditional.toml", "digits.toml", "imagenet64.toml",
                                     "mixture.toml")
    }  # fmt: skip
