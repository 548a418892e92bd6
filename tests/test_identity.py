"""Names of students and cells: equal if and only if the numbers are, and never changed by a release."""

import copy
import functools
import hashlib
import importlib
import re
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from command_lines import flags
from pydantic import Field, ValidationError
from torch import nn

from tractbench.claims.loading import load_tables
from tractbench.config.command import given_settings, run_command
from tractbench.config.fields import RunConfig
from tractbench.config.identity import cell_id, introduced, stated, student_id, training_form
from tractbench.config.resolve import resolve
from tractbench.datasets.base import Dataset, NetworkPreset
from tractbench.diffusion.denoiser import SigmaDenoiser, X0Denoiser
from tractbench.diffusion.processes import load_process
from tractbench.errors import ConfigError
from tractbench.pipeline.cell import identify
from tractbench.plugins import distribution_hash, forget
from tractbench.registry import load_method, method_names
from tractbench.seeds import generator
from tractbench.training.distillation import Distillation

TRAINED = [name for name in method_names() if load_method(name).trains]


class Layers(nn.Module):
    """Two layers over the pixels and the noise level, in one module: copied and called a hundred thousand times."""

    embedding = 4

    def __init__(self, width, random):
        super().__init__()
        self.inner = nn.Parameter(torch.randn((width, 4 + self.embedding), generator=random))
        self.shift = nn.Parameter(torch.randn(width, generator=random))
        self.outer = nn.Parameter(torch.randn((4, width), generator=random) * 2 * width**-0.5)

    def forward(self, x, noise_level, labels=None, *, extra=None):
        level = torch.sin(noise_level[:, None] * torch.tensor([0.1, 0.2, 0.4, 0.8]))
        level = level if extra is None else level + extra
        hidden = torch.tanh(torch.cat([x.flatten(1), level], 1) @ self.inner.T + self.shift)
        return (hidden @ self.outer.T).reshape(x.shape)


class Stretched(nn.Module):
    """Stands for a published distance of images."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, first, second):
        return self.factor * (first - second).square().flatten(1).sum(1)


class Tiny(Dataset):
    """Sixteen images of four pixels, as bright as they come, so that clipping is felt."""

    name: ClassVar[str] = "tiny"
    summary: ClassVar[str] = "for tests"
    shape: ClassVar[tuple[int, int, int]] = (1, 2, 2)
    fingerprint = "f" * 64

    def network(self, name, process):
        return preset(name, process)


def preset(name, process):
    width = {"mlp": 8, "wide": 12}[name]
    arguments = {"channels": 1, "size": 2, "width": width, "blocks": 1, "embedding": 4}
    if process == "ve":
        return NetworkPreset("mlp", {**arguments, "c_noise": 1}, "edm")
    return NetworkPreset("mlp", arguments, "x0")


@functools.lru_cache
def denoiser(name, process_name, steps):
    """Some of its predictions lie outside of [-1, 1], which targets may clip, and some within."""
    width = preset(name, process_name).arguments["width"]
    net, process = Layers(width, generator("tests", "identity", name)), load_process(process_name, steps)
    return (X0Denoiser if process_name == "vp" else SigmaDenoiser)(net, process).requires_grad_(False).eval()


@functools.lru_cache
def images():
    return 2 * torch.rand((16, 1, 2, 2), generator=generator("tests", "identity", "images")) - 1


def configuration(method, options=None, **changes):
    process = method.processes[0]
    made = method.model_validate(options or {})
    values = {
        "method": method.name, "dataset": "tiny", "tier": "smoke", "process": process, "teacher": "some",
        "grid_steps": 8, "schedule": (8, 4, 2), "nfe": 2, "budget": 48, "batch": 8, "lr": 1e-2, "clip_norm": 1e-2,
        "options": made.model_dump(mode="json"),
    }  # fmt: skip
    return RunConfig.model_validate(values | changes), made


def name_of(config, method):
    process = load_process(config.process, config.grid_steps)
    return student_id(config, method, Tiny(), process, f"hash of {config.teacher}")


def bits_of(config, method):
    """The student's bits after all its steps, three a phase, and its inference average's."""
    process = load_process(config.process, config.grid_steps)
    distances = {name: Stretched(1 + one.average_pooling) for name, one in method.distances((3, 8, 8)).items()}
    run = Distillation(
        config, method, process, denoiser("mlp", config.process, config.grid_steps), images(), flips=True,
        distances=distances,
        new_network=lambda name: copy.deepcopy(denoiser(name, config.process, config.grid_steps)),
    )  # fmt: skip
    for _ in range(run.total):
        run.train_step()
    digest = hashlib.sha256()
    for network in (run.student, run.averaged()):
        for tensor in network.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


BASES = {
    "two phases": {},
    "one phase": {"schedule": (4, 2), "budget": 24},
    "one step a phase": {"budget": 16},
    "own momentum": {"mu_i": 0.9},
    "gradients only mended": {"gradients": "replace_nonfinite"},
    "another network": {"schedule": (8, 8, 4, 2), "budget": 72, "student": "wide"},
    "another network at the end": {"schedule": (8, 4, 2, 2), "budget": 72, "student": "wide"},
    "linear with warm-up": {"lr_schedule": "linear", "warmup": 24},
}

ALTERNATIVES = {
    "tier": ["small"],
    "grid_steps": [16],
    "nfe": [],  # of a trained student it is the end of its schedule
    "schedule": [(8, 2), (4, 2)],
    "budget": [49, 64, 96],
    "batch": [4, 16],
    "optimiser": ["radam"],
    "lr": [1e-3],
    "lr_schedule": ["constant", "linear"],
    "warmup": [1, 8, 20, 24, 32],
    "gradients": ["replace_nonfinite", "clip_norm"],
    "clip_norm": [1e-3],
    "student": ["wide", "mlp"],
    "mu_s": [0.0, 0.9],
    "mu_i": [0.5],
    "ema_residual": [1e-2],
    "ema_reset": ["phase"],
    "phase_start": ["from_teacher"],
    "precision": ["bf16"],
    "seed": [1],
    "sampling_seeds": [(0, 1)],
    "samples": [16],
    "chunk": [8],
    "clip_sample": [False],
    "protocol": ["exact"],
}
ELSEWHERE = {"method", "dataset", "process", "teacher", "options"}
"""Fields with a test of their own below."""


FINER = {"cd": {"grid_steps"}, "ect": {"grid_steps", "schedule"}, "scm": {"grid_steps", "schedule"}}
"""Fields that may move a name without the bits: these methods place their noise levels without the process's grid."""

NUMBERS = {
    "levels": (3.0,), "first_steps": 4, "growth": 1.0, "adjustment": 0.5, "noise_mean": 0.5, "noise_std": 1.0, "q": 4.0,
    "stages": 2, "k": 1.0, "b": 4.0, "c": 0.5, "warmup_share": 1.0, "difference": 0.4,
}  # fmt: skip
"""Other values of options that are numbers."""

SHORT = {"mscd": {"first_steps": 2}}
"""Options without which these few steps would not tell others apart."""

STILL = {("scm", "one step a phase")}
"""Runs that learn nothing: a student that is its teacher has no gradient where its tangent's terms have not come in."""


def test_every_field_is_tried():
    assert set(ALTERNATIVES) | ELSEWHERE == set(RunConfig.model_fields)


@pytest.mark.parametrize(
    ("method", "base"), [(method, base) for method in TRAINED for base in BASES if (method, base) not in STILL]
)
def test_a_student_has_another_name_if_and_only_if_it_has_other_bits(method, base):
    kind = load_method(method)
    base = BASES[base]
    first, made = configuration(kind, **base)
    name, bits = name_of(first, made), bits_of(first, made)
    tried = 0
    for field, values in ALTERNATIVES.items():
        for value in values:
            try:
                other, _ = configuration(kind, **(base | {field: value}))
                made.phases(other.schedule)
            except (ValidationError, ConfigError):
                continue
            if other == first:
                continue
            tried += 1
            same_name, same_bits = name_of(other, made) == name, bits_of(other, made) == bits
            if field in FINER.get(method, ()):
                assert same_bits or not same_name
                continue
            assert same_name == same_bits, f"{field} {value}: same name {same_name}, same bits {same_bits}"
    assert tried > 20


@pytest.mark.parametrize("method", TRAINED)
def test_options_that_move_no_bit_are_in_no_name(method):
    kind, base = load_method(method), SHORT.get(method, {})
    first, made = configuration(kind, base)
    name, bits = name_of(first, made), bits_of(first, made)
    for option, field in kind.model_fields.items():
        values = [True, False] if field.annotation is bool else list(getattr(field.annotation, "__args__", ()))
        values = [NUMBERS[option]] if option in NUMBERS else values
        assert values, f"{option}: no values to try"
        for value in values:
            other, changed = configuration(kind, base | {option: value})
            assert (name_of(other, changed) == name) == (bits_of(other, changed) == bits), f"{option} {value}"


def test_what_stands_behind_a_name_counts_and_not_the_name():
    kind = load_method("tract")
    config, made = configuration(kind)
    process = load_process("vp", 8)
    name = student_id(config, made, Tiny(), process, "a")
    assert name != student_id(config, made, Tiny(), process, "b")
    assert name == student_id(config.model_copy(update={"teacher": "other"}), made, Tiny(), process, "a")

    class Other(Tiny):
        fingerprint = "e" * 64

    assert name != student_id(config, made, Other(), process, "a")


def test_arithmetic_is_in_the_name_even_where_this_machine_knows_no_difference():
    config, made = configuration(load_method("tract"))
    assert name_of(config, made) != name_of(config.model_copy(update={"precision": "tf32"}), made)


def test_samplers_of_one_teacher_share_its_name_and_differ_as_cells():
    ddim = load_method("ddim")
    process = load_process("vp", 1024)
    made = ddim()
    configs = [
        RunConfig(method="ddim", dataset="tiny", tier="smoke", teacher="some", grid_steps=1024, nfe=nfe, seed=seed)
        for nfe, seed in ((1, 0), (2, 0), (1, 5))
    ]
    students = {student_id(config, made, Tiny(), process, "t") for config in configs}
    assert len(students) == 1
    (student,) = students
    cells = [cell_id(student, config, made, Tiny(), "r") for config in configs]
    assert cells[0] != cells[1]
    assert cells[0] == cells[2]  # a training seed means nothing where nothing is trained


SAMPLING = {
    "tier": "small", "nfe": 4, "sampling_seeds": (0, 1), "samples": 16, "chunk": 8, "clip_sample": False,
    "precision": "bf16",
}  # fmt: skip


@pytest.mark.parametrize("field", SAMPLING)
def test_every_field_that_sampling_reads_is_in_the_name_of_a_cell(field):
    config, made = configuration(load_method("tract"))
    other = config.model_copy(update={field: SAMPLING[field]})
    assert cell_id("s", config, made, Tiny(), "r") != cell_id("s", other, made, Tiny(), "r")


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"mu_i": 0.3, "seed": 7}])
def test_a_field_that_a_later_release_adds_renames_nothing(changes):
    class Later(RunConfig):
        temperature: float = Field(1.0, description="new")

    class LaterMethod(load_method("tract")):
        smoothing: float = Field(0.0, description="new")

    config, made = configuration(load_method("tract"), **changes)
    later = Later.model_validate(config.model_dump())
    names = frozenset(Later.model_fields)
    assert stated(later, names) == stated(config, frozenset(RunConfig.model_fields))
    assert training_form(config, LaterMethod()) == training_form(config, made)
    changed = later.model_copy(update={"temperature": 2.0})
    assert stated(changed, names) == stated(config, frozenset(RunConfig.model_fields)) | {"temperature": 2.0}


def test_a_default_may_change_if_the_field_says_what_it_was():
    class Later(RunConfig):
        mu_s: float = Field(0.9, ge=0, lt=1, json_schema_extra={"introduced": 0.5})

    assert introduced(Later, "mu_s") == 0.5
    values = {"method": "tract", "dataset": "tiny", "tier": "smoke", "teacher": "some", "grid_steps": 8}
    assert stated(Later(**values), frozenset({"mu_s"})) == {"mu_s": 0.9}
    assert stated(Later(**values, mu_s=0.5), frozenset({"mu_s"})) == {}


# What is told apart


def real(**settings):
    return resolve({"method": "tract", "dataset": "digits", "tier": "smoke"} | settings)


def test_equal_settings_in_other_words_are_the_same_run():
    written = identify(*real(budget="96M", schedule="1024,32,1", sampling_seeds="0-2", lr="1e-3", batch=256))
    same = identify(
        *real(lr=0.001, batch=256.0, sampling_seeds=[0, 1, 2], nfe=1, schedule=[1024, 32, 1], budget=100_663_296)
    )
    assert (written.student, written.id) == (same.student, same.id)
    assert identify(*real(clip_target=True, loss_weight="truncated_snr")).id == identify(*real()).id


@pytest.mark.parametrize("name", sorted(load_tables()))
def test_cells_of_a_table_have_as_many_names_as_they_have_settings(name, monkeypatch):
    """Cells of one configuration share a name, those of different ones do not."""
    monkeypatch.setattr("tractbench.pipeline.cell.teacher_hash", lambda teacher, dataset, process: teacher)
    monkeypatch.setattr("tractbench.pipeline.cell.teacher_process", lambda teacher, process: process)
    monkeypatch.setattr("tractbench.pipeline.cell.reference_hash", lambda *a, **k: "reference")
    monkeypatch.setattr("tractbench.datasets.formats.files.FileDataset.fingerprint", "data", raising=True)
    names, configs = set(), set()
    for cell in load_tables()[name].cells.values():
        config, method, dataset = resolve(cell.settings)
        names.add(identify(config, method, dataset).id)
        configs.add(config.model_dump_json())
    assert len(names) == len(configs)


PLUGIN = """from tractbench.methods.tract import TRACT
from {package}.constants import SCALE


class Own(TRACT):
    pass
"""


def plugin(folder, package, scale, monkeypatch):
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text("")
    (folder / package / "constants.py").write_text(f"SCALE = {scale}\n")
    (folder / package / "method.py").write_text(PLUGIN.format(package=package))
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(f"{package}.method").Own


def test_everything_in_a_plugins_package_is_part_of_its_students(tmp_path, monkeypatch):
    kinds = [plugin(tmp_path / str(scale), f"own_{scale}", scale, monkeypatch) for scale in (1, 2)]
    hashes = {distribution_hash(kind) for kind in (*kinds, load_method("tract"))}
    assert len(hashes) == 3
    assert None in hashes
    config, _ = configuration(load_method("tract"))
    names = {name_of(config, kind()) for kind in (*kinds, load_method("tract"))}
    assert len(names) == 3


def test_a_constant_in_another_module_of_a_plugin_changes_its_hash(tmp_path, monkeypatch):
    found = []
    for scale in (1, 2):
        folder = tmp_path / str(scale)
        kind = plugin(folder, "same_name", scale, monkeypatch)
        forget()
        found.append(distribution_hash(kind))
        for module in [name for name in sys.modules if name.startswith("same_name")]:
            del sys.modules[module]
        importlib.invalidate_caches()
    assert found[0] != found[1]


def test_names_are_sha256():
    cell = identify(*real())
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in (cell.student, cell.id))


# What no release may change


FROZEN = Path(__file__).parent / "frozen_ids.txt"
"""Names that no release may change: of a run, its settings as flags, the student's name and the cell's."""


def frozen():
    for line in FROZEN.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            settings, student, cell = line.split("\t")
            yield pytest.param(settings, student, cell, id=settings)


@pytest.mark.parametrize(("settings", "student", "cell"), list(frozen()))
def test_a_run_keeps_its_name_for_ever(settings, student, cell):
    given = dict(pair.split("=", 1) for pair in settings.split())
    asked = given | ({"nfe": "9"} if given.get("solver") == "heun" else {})
    config, method, dataset = resolve(asked)
    if asked != given:  # heun spends 9 of 10 evaluations; once that was no error, and what was made then keeps its name
        with pytest.raises(ConfigError, match="heun would spend 9"):
            resolve(given)
        config = config.model_copy(update={"nfe": 10})
    found = identify(config, method, dataset)
    assert (found.student, found.id) == (student, cell)


# The command


@pytest.mark.parametrize("settings", [
    {"method": "tract"}, {"method": "tract", "nfe": 4, "seed": 3}, {"method": "btd", "nfe": 8, "budget": "96K"},
    {"method": "ddim", "process": "ve", "nfe": 9, "solver": "heun"}, {"method": "ddim", "nfe": 16, "grid_steps": 2048},
    {"method": "tract_edm", "nfe": 2, "mu_i": 0.99, "precision": "bf16", "sampling_seeds": "3,5"},
    {"method": "tract", "schedule": "1024,1024,32,1", "student": "mlp-third", "loss_weight": "uniform"},
    {"method": "tract", "schedule": "2048,64,1", "lr": 1e-5, "gradients": "replace_nonfinite", "chunk": 250},
    {"method": "tract", "dataset": "mixture2d", "nfe": 2, "warmup": 4096, "ema_reset": "phase"},
])  # fmt: skip
def test_the_command_written_from_a_configuration_makes_it_again(settings):
    config, _, _ = resolve({"dataset": "digits"} | settings)
    assert resolve(flags(run_command(given_settings(config))))[0] == config
