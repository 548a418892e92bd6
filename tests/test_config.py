"""Settings: how they are written, which of them win, the steps and phases that they make."""

import math
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import hypothesis
import pytest
from config_data import config, refusal, resolved
from hypothesis import given
from hypothesis import strategies as st

from tractbench.config.fields import RunConfig
from tractbench.config.numbers import format_budget, parse_budget, parse_integers
from tractbench.config.resolve import read_config_file, resolve
from tractbench.datasets.digits import Digits
from tractbench.diffusion.processes import VE
from tractbench.errors import ConfigError
from tractbench.io.canonical import canonical
from tractbench.method import Phase
from tractbench.methods.tract import TRACT
from tractbench.registry import load_dataset
from tractbench.training.phases import plan_phases

# Parsing


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("512K", 524_288),
        ("96M", 100_663_296),
        ("1k", 1024),
        ("256m", 268_435_456),
        ("1000", 1000),
        (" 8 K ", 8192),
        ("0", 0),
    ],
)
def test_budget_suffixes_are_binary(text, images):
    assert parse_budget(text) == images
    assert config(budget=text, batch=1).budget == images if images else True


@pytest.mark.parametrize("text", ["", "K", "1.5M", "-3", "1e6", "12G", "0x10", "1 000", "96MM", "M96", "nan", "½K"])
def test_what_is_no_budget_is_refused(text):
    message = refusal({"method": "tract", "dataset": "digits", "budget": text})
    assert repr(text) in message
    assert "try 512K" in message
    assert "\n" not in message


@hypothesis.settings(deadline=None)
@given(st.integers(0, 1 << 40))
def test_a_formatted_budget_reads_back(images):
    assert parse_budget(format_budget(images)) == images


def test_a_budget_is_formatted_in_its_largest_whole_unit():
    written = [format_budget(n) for n in (96 << 20, 512 << 10, 1000, 1 << 20, (1 << 20) + 1024, 0)]
    assert written == ["96M", "512K", "1000", "1M", "1025K", "0"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1024,32,1", (1024, 32, 1)), ("0-4", (0, 1, 2, 3, 4)), ("7", (7,)), (" 3 , 5 - 6 ", (3, 5, 6)), ("2-2", (2,))],
)
def test_integers_and_ranges(text, numbers):
    assert parse_integers(text) == numbers


@hypothesis.settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50))
def test_a_range_holds_both_ends_and_all_between(first, length):
    numbers = parse_integers(f"{first}-{first + length}")
    assert numbers[0] == first
    assert len(numbers) == length + 1
    assert all(b - a == 1 for a, b in pairwise(numbers))


@pytest.mark.parametrize("text", ["", "4-0", "1,,2", "a", "1.5", "0-99999999", "-1", "1;2", "0-", "1" * 30])
def test_what_is_no_list_of_integers_is_refused(text):
    message = refusal({"method": "tract", "dataset": "digits", "sampling_seeds": text})
    assert repr(text) in message
    assert "0-4" in message
    assert "\n" not in message


# Precedence


def test_given_settings_win_over_method_then_preset_then_field(monkeypatch):
    field = RunConfig.model_fields["clip_norm"].default
    tiers = {"first": {"budget": 8192, "lr": 0.25, "samples": 77, "batch": 2}, "other": {}}
    monkeypatch.setattr(Digits, "workload", Digits().workload.model_copy(update={"tiers": tiers}))
    monkeypatch.setattr(TRACT, "defaults", {"budget": 4096, "lr": 0.5, "batch": 4})
    found = config(budget=2048)
    assert (found.budget, found.lr, found.batch, found.samples, found.clip_norm) == (2048, 0.5, 4, 77, field)
    assert found.tier == "first"
    other = config(tier="other")
    assert (other.budget, other.batch) == (4096, 4)
    assert other.samples == RunConfig.model_fields["samples"].default


def test_none_means_not_given():
    assert config(budget=None, tier=None, lr=None, nfe=None) == config()


def test_a_methods_options_go_to_the_method():
    run, method, dataset = resolved(clip_target=False, loss_weight="snr")
    assert method == TRACT(clip_target=False, loss_weight="snr")
    assert run.options == {"clip_target": False, "loss_weight": "snr"}
    assert isinstance(dataset, Digits)


def test_defaults_come_from_the_data_set():
    run, workload = config(), Digits().workload
    assert (run.process, run.teacher, run.protocol) == ("vp", workload.teachers["vp"], workload.protocol)


def test_names_are_normalised():
    assert resolve({"method": "TRACT", "dataset": "Digits"})[0] == config()


def test_a_teacher_may_be_given():
    assert config(teacher="mine/card.toml").teacher == "mine/card.toml"


# Steps


@pytest.mark.parametrize("nfe", [1, 2, 4, 8, 16, 32, 64, 512])
def test_the_schedule_ends_at_nfe(nfe):
    assert config(nfe=nfe).schedule[-1] == nfe


@pytest.mark.parametrize("schedule", ["1024,32,2", (1024, 32, 2), [1024, 32, 2]])
def test_nfe_is_the_schedules_last_entry(schedule):
    run = config(schedule=schedule)
    assert (run.schedule, run.nfe) == ((1024, 32, 2), 2)
    assert config(schedule=schedule, nfe=2) == run


@pytest.mark.parametrize("schedule", [(32, 32), (32, 32, 1), (2048, 32, 1), (6144, 3), (1024, 1)])
def test_schedules_may_repeat_an_entry_or_exceed_the_grid(schedule):
    assert config(schedule=schedule).schedule == schedule


CUT = [
    ("tract", 16, 1, (16, 1)),
    ("tract", 16, 8, (16, 8)),
    ("tract", 32, 1, (32, 1)),
    ("tract", 64, 1, (64, 32, 1)),
    ("tract", 2048, 1, (1024, 32, 1)),
    ("btd", 16, 1, (16, 8, 4, 2, 1)),
    ("btd", 16, 4, (16, 8, 4)),
    ("tract_edm", 16, 1, (16, 1)),
    ("tract_edm", 16, 4, (16, 4)),
]


@pytest.mark.parametrize(("method", "grid", "nfe", "schedule"), CUT)
def test_a_methods_own_schedule_is_cut_to_the_grid(monkeypatch, method, grid, nfe, schedule):
    given = resolve({"method": method, "dataset": "digits", "nfe": nfe, "grid_steps": grid})[0]
    assert (given.schedule, given.grid_steps) == (schedule, grid)
    monkeypatch.setattr(Digits, "workload", with_grid(grid))
    assert resolve({"method": method, "dataset": "digits", "nfe": nfe})[0].schedule == schedule


def with_grid(grid):
    workload = load_dataset("digits").workload
    tiers = {name: {**tier, "grid_steps": grid} for name, tier in workload.tiers.items()}
    return workload.model_copy(update={"tiers": tiers})


@pytest.mark.parametrize(
    ("schedule", "grid"), [("1024,32,1", 1024), ("16,4,1", 16), ("8,1", 16), ("32,1", 32), ("1,1", 16), ("12,4", 12)]
)
def test_a_given_schedule_moves_the_tiers_grid_to_its_start_if_it_must(monkeypatch, schedule, grid):
    monkeypatch.setattr(Digits, "workload", with_grid(16))
    for method in ("tract", "tract_edm"):
        run = resolve({"method": method, "dataset": "digits", "schedule": schedule})[0]
        assert (run.schedule, run.grid_steps) == (parse_integers(schedule), grid)


def test_a_given_grid_is_never_moved():
    assert "try 16,1" in refusal({"method": "tract", "dataset": "digits", "schedule": "32,1", "grid_steps": 16})
    assert config(schedule="8,1", grid_steps=16).grid_steps == 16


def test_the_student_of_an_exact_teacher_starts_with_a_repeated_entry_of_a_cut_schedule():
    run = resolve({"method": "tract", "dataset": "mixture2d", "grid_steps": 16})[0]
    assert run.schedule == (16, 16, 1)


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet64"])
@pytest.mark.parametrize(
    ("method", "schedule"), [("tract", (16, 1)), ("btd", (16, 8, 4, 2, 1)), ("tract_edm", (16, 1)), ("ddim", ())]
)
def test_the_smoke_tiers_teacher_takes_few_steps(dataset, method, schedule):
    run = resolve({"method": method, "dataset": dataset, "tier": "smoke"})[0]
    assert (run.schedule, run.grid_steps) == (schedule, 16)


def test_a_solver_is_one_of_the_processes():
    ddim = {"method": "ddim", "dataset": "digits", "solver": "heun", "nfe": 15}
    assert "'heun' is not for process 'vp'; leave it out, or add --process ve" in refusal(ddim)
    assert resolve(ddim | {"process": "ve"})[1].sampler(4, VE()).solver == "heun"


@pytest.mark.parametrize(("nfe", "spent"), [(2, 1), (8, 7)])
def test_an_even_number_of_evaluations_is_not_spent_by_heun(nfe, spent):
    heun = {"method": "ddim", "dataset": "digits", "process": "ve", "solver": "heun"}
    assert f"heun would spend {spent}," in refusal(heun | {"nfe": nfe})
    assert f"try {spent} or {spent + 2}" in refusal(heun | {"nfe": nfe})
    assert resolve(heun | {"nfe": spent})[0].nfe == spent


@pytest.mark.parametrize("nfe", [1, 2, 16, 1024])
def test_untrained_methods_sample_in_any_number_of_steps_that_divides_the_grid(nfe):
    run = resolve({"method": "ddim", "dataset": "digits", "nfe": nfe})[0]
    assert (run.nfe, run.schedule, run.budget) == (nfe, (), 0)


# The file of settings


def test_a_config_file_uses_the_flags_names(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('method = "tract"\ndataset = "digits"\nmu-s = 0.25\nsampling-seeds = "0-2"\nbudget = "8K"\n')
    run = resolve(read_config_file(path))[0]
    assert (run.mu_s, run.sampling_seeds, run.budget) == (0.25, (0, 1, 2), 8192)


@pytest.mark.parametrize("content", [None, b"method = ", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_bad_config_file_is_one_line_with_its_name(tmp_path, content):
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@hypothesis.settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_canonical_text_does_not_depend_on_the_order_of_keys(value):
    assert canonical(dict(reversed(list(value.items())))) == canonical(value)


@hypothesis.settings(deadline=None)
@given(json_values, json_values)
def test_canonical_texts_are_equal_only_for_equal_values(a, b):
    if canonical(a) == canonical(b):
        assert a == b


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_canonical_text_has_no_nan(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical({"x": value})


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        config().lr = 1.0


# The budget


def test_the_papers_budget_in_steps_and_momentum():
    run = config(budget="96M", schedule="1024,32,1", batch=256)
    plans = plan_phases(run, TRACT().phases(run.schedule))
    assert [plan.phase for plan in plans] == [Phase(1024, 32), Phase(32, 1)]
    assert [(plan.first_step, plan.steps) for plan in plans] == [(0, 196_608), (196_608, 196_608)]
    assert [plan.momentum for plan in plans] == pytest.approx([0.999965] * 2, abs=5e-7)


def test_spare_steps_go_to_the_last_phase():
    run = config(budget=8 * 11 + 7, batch=8, schedule="64,16,4,1")
    plans = plan_phases(run, TRACT().phases(run.schedule))
    assert [(plan.first_step, plan.steps) for plan in plans] == [(0, 3), (3, 3), (6, 5)]


@hypothesis.settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 4096), st.integers(1, 10))
def test_phases_share_the_whole_budget(budget, batch, count):
    run = RunConfig.model_construct(budget=budget * count * batch, batch=batch, mu_i=None, ema_residual=1e-3)
    run = run.model_copy(update={"budget": run.budget + budget % (batch * count)})
    plans = plan_phases(run, tuple(Phase(2, 1) for _ in range(count)))
    assert sum(plan.steps for plan in plans) * batch <= run.budget < (sum(plan.steps for plan in plans) + 1) * batch
    assert all(b.first_step == a.first_step + a.steps for a, b in pairwise(plans))
    assert len({plan.steps for plan in plans[:-1]}) <= 1
    assert plans[0].first_step == 0
    assert plans[0].steps <= plans[-1].steps < plans[0].steps + count


@pytest.mark.parametrize("residual", [1e-3, 0.5, 1e-9])
def test_the_residual_is_what_a_phase_leaves_of_its_start(residual):
    run = config(budget="1M", ema_residual=residual)
    for plan in plan_phases(run, TRACT().phases(run.schedule)):
        assert float(Decimal(plan.momentum) ** plan.steps) == pytest.approx(residual, rel=1e-9)


def test_a_given_momentum_overrides_the_residual():
    run = config(mu_i=0.99997, ema_residual=0.5)
    assert [plan.momentum for plan in plan_phases(run, TRACT().phases(run.schedule))] == [0.99997] * 2


def test_the_config_file_of_the_documentation_is_a_run(tmp_path):
    path = Path(__file__).parents[1] / "docs" / "salimans-ho-cifar10.toml"
    config, method, dataset = resolve(read_config_file(path))
    assert config.clip_norm == math.prod(dataset.shape)
    assert config.budget == len(method.phases(config.schedule)) * 50_000 * config.batch
    assert (config.grid_steps, config.lr, config.lr_schedule) == (8192, 5e-5, "linear")
    marked = tmp_path / "bom.toml"
    marked.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_config_file(marked) == read_config_file(path)
