import json
import math
from pathlib import Path

import pytest
import torch

import tractbench.training.distillation as engine
from tractbench.config.fields import RunConfig
from tractbench.diffusion.denoiser import SigmaDenoiser, X0Denoiser
from tractbench.diffusion.processes import VE, VP
from tractbench.errors import RunFailedError
from tractbench.method import Phase
from tractbench.methods.btd import BTD
from tractbench.methods.tract import TRACT
from tractbench.methods.tract_edm import TRACTEDM
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation

STEPS = 5  # of each phase


pytestmark = pytest.mark.usefixtures("one_thread")


# whole runs on real images


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all runs, so that a teacher's full sampler runs once."""
    return tmp_path_factory.mktemp("runs")


def schedule(method, nfe):
    """TRACT-EDM's default for one evaluation, and of a teacher of few steps BTD in many phases."""
    if method == "btd":
        return [(64 if nfe == 1 else 4 * nfe) >> k for k in range(7 if nfe == 1 else 3)]
    if method == "tract":
        return [64, 16, nfe]
    return [40, nfe] if method == "tract_edm" else []


RUNS = [
    *((method, nfe, nfe, ()) for method in ("tract", "btd", "tract_edm") for nfe in (1, 2, 8)),
    *(("ddim", nfe, nfe, ("--set", "grid_steps=64")) for nfe in (1, 2, 8)),
    *(("ddim", nfe, nfe, ("--process", "ve")) for nfe in (1, 2, 8)),
    # Heun in 1 and 4 steps
    *(("ddim", nfe, nfe, ("--process", "ve", "--set", "solver=heun")) for nfe in (1, 7)),
]


@pytest.mark.parametrize(("method", "nfe", "spent", "more"), RUNS)
def test_every_method_runs_on_digits(tractbench, store, method, nfe, spent, more):
    steps, trains = schedule(method, nfe), method != "ddim"
    more += ("--budget", "4096", "--batch", "64") if trains else ()
    more += ("--schedule", ",".join(map(str, steps))) if trains and (nfe > 1 or method != "tract_edm") else ()
    result = tractbench("run", "--method", method, "--dataset", "digits", "--tier", "smoke", "--nfe", nfe, *more,
                        "--sampling-seeds", "0,1", "--samples", "100", "--runs", store, "--json", "-q")  # fmt: skip
    assert (result.code, result.err) == (0, "")
    run = result.json
    assert (run["status"], run["nfe"], run["nfe_spent"], run["schedule"]) == ("done", nfe, spent, steps)
    assert set(run["metrics"]) == {"fd_pixel", "fd_feature", "fd_pixel_held_out", "fd_feature_held_out", "nn_ratio"}
    for metric in run["metrics"].values():
        assert len(metric["per_seed"]) == 2
        assert all(math.isfinite(value) and value > 0 for value in metric["per_seed"])
    record = json.loads(Path(run["run_dir"], "record.json").read_text())
    assert record["training"]["images"] == (4096 if trains else 0)
    assert record["training"]["nonfinite_gradients"] == 0
    assert len(record["distillation_errors"]) == (len(steps) - 1 if trains else 1)
    assert all(math.isfinite(error["error"]) for error in record["distillation_errors"])


def test_more_steps_bring_ddim_nearer_to_its_teachers_full_sampler(tractbench, store):
    errors = []
    for nfe in (1, 2, 8, 20, 40):
        run = tractbench("run", "--method", "ddim", "--dataset", "digits", "--tier", "smoke", "--process", "ve",
                         "--nfe", nfe, "--sampling-seeds", "0", "--samples", "10", "--runs", store, "--json",
                         "--quiet").json  # fmt: skip
        (error,) = json.loads(Path(run["run_dir"], "record.json").read_text())["distillation_errors"]
        assert (error["phase"], error["start"], error["end"]) == (0, 40, nfe)
        errors.append(error["error"])
    assert errors == sorted(set(errors), reverse=True)
    assert errors[-1] == 0.0


# defaults

DEFAULTS = {
    "tract": {
        "phase_start": "continue", "clip_target": "True", "clip_sample": "True", "loss_weight": "truncated_snr",
        "ema_reset": "none", "lr_schedule": "constant", "lr": "0.0002", "mu_s": "0.5", "mu_i": "None",
        "ema_residual": "0.001", "gradients": "clip_norm", "clip_norm": "1.0", "warmup": "0", "batch": "the tier's",
    },
    "btd": {
        "phase_start": "from_teacher", "clip_target": "False", "clip_sample": "True", "loss_weight": "truncated_snr",
        "final_target": "teacher_x0", "ema_reset": "none", "lr_schedule": "linear", "lr": "0.0002", "mu_i": "None",
        "ema_residual": "0.001", "gradients": "clip_norm", "clip_norm": "1.0", "warmup": "0", "batch": "the tier's",
    },
    "tract_edm": {
        "phase_start": "continue", "clip_target": "True", "clip_sample": "True", "teacher_solver": "rk",
        "ema_reset": "none", "lr_schedule": "constant", "lr": "0.001", "mu_s": "0.5", "mu_i": "None",
        "ema_residual": "0.001", "gradients": "replace_nonfinite", "warmup": "0",
    },
    "ddim": {"solver": "ddim"},
}  # fmt: skip


def test_listed_defaults_are_the_documented_choices(tractbench):
    listed = {name: {} for name in DEFAULTS}
    for row in tractbench("list", "methods", "--verbose", "--json").json:
        listed.setdefault(row["method"], {})[row["setting"]] = row["default"]
        assert row["description"]
    found = {name: {key: listed[name].get(key) for key in choices} for name, choices in DEFAULTS.items()}
    assert found == DEFAULTS


def test_only_btd_chooses_its_final_target_and_only_tract_edm_its_solver(tractbench):
    rows = tractbench("list", "methods", "--verbose", "--json").json
    owners = {key: [r["method"] for r in rows if r["setting"] == key] for key in ("final_target", "teacher_solver")}
    assert owners == {"final_target": ["btd"], "teacher_solver": ["tract_edm"]}


# the training loop on networks of a few weights


def network(method):
    arguments = {"channels": 1, "size": 2, "width": 8, "blocks": 1, "embedding": 4}
    if isinstance(method, TRACTEDM):
        net = build_network("mlp", {**arguments, "c_noise": 1}, generator("tests", "weights"))
        return SigmaDenoiser(net, VE()).requires_grad_(False).eval()
    return X0Denoiser(build_network("mlp", arguments, generator("tests", "weights")), VP()).requires_grad_(False).eval()


def distillation(method=None, **changes):
    method = method or TRACT()
    edm = isinstance(method, TRACTEDM)
    settings = {
        "method": method.name, "dataset": "digits", "tier": "smoke", "teacher": "t", "lr": 1e-2, "batch": 4,
        "grid_steps": 40 if edm else 1024, "schedule": (8, 4, 2), "nfe": 2, "budget": 2 * STEPS * 4,
        "process": "ve" if edm else "vp",
    }  # fmt: skip
    images = 2 * torch.rand((16, 1, 2, 2), generator=generator("tests", "images")) - 1
    config = RunConfig.model_validate(settings | changes)
    return Distillation(config, method, VE(8) if edm else VP(), network(method), images)


def rates(run):
    found = []
    while run.step < run.total:
        run.train_step()
        found.append(run.optimiser.rate)
    return found


def test_the_rate_is_constant_unless_asked():
    assert rates(distillation()) == [0.01] * 2 * STEPS


def test_a_linear_rate_starts_at_the_top_of_each_phase_and_would_reach_nothing_at_its_end():
    falling = [0.01, 0.008, 0.006, 0.004, 0.002]
    assert rates(distillation(BTD(), lr_schedule="linear")) == pytest.approx(falling * 2, rel=1e-12)


@pytest.mark.parametrize(("batch", "factors"), [(4, [0.25, 0.5, 0.75, 1, 1]), (8, [0.5, 1, 1, 1, 1])])
def test_warmup_is_counted_in_images(batch, factors):
    run = distillation(TRACTEDM(), batch=batch, budget=batch * STEPS, schedule=(8, 2), warmup=16)
    assert rates(run) == pytest.approx([0.01 * f for f in factors], rel=1e-12)


def test_warmup_runs_once_and_scales_a_linear_rate():
    run = distillation(warmup=24, lr_schedule="linear")
    linear = [0.01 * (1 - k / STEPS) for k in range(STEPS)] * 2
    expected = [rate * min(1, 4 * (k + 1) / 24) for k, rate in enumerate(linear)]
    assert rates(run) == pytest.approx(expected, rel=1e-12)


POISON = {"nan": (math.nan, 0.0), "inf": (math.inf, 1e5), "-inf": (-math.inf, -1e5)}


def poisoned(run, values):
    """Makes the first entries of one gradient ``values``, as an overflow in the backward pass does."""

    def hook(gradient):
        changed = gradient.clone()
        changed.view(-1)[: len(values)] = torch.tensor(values, dtype=gradient.dtype)
        return changed

    return run.student.net.output.weight.register_hook(hook)


def test_gradient_entries_that_are_not_finite_are_replaced_and_counted():
    run, clean = (distillation(TRACTEDM(), gradients="replace_nonfinite") for _ in range(2))
    hook = poisoned(run, [bad for bad, _ in POISON.values()])
    run.train_step()
    clean.train_step()
    gradient, expected = (r.student.net.output.weight.grad.view(-1) for r in (run, clean))
    assert gradient[:3].tolist() == [good for _, good in POISON.values()]
    assert torch.equal(gradient[3:], expected[3:])
    # Adam's first step moves an entry by the rate against its sign, so each entry shows what it was replaced by
    moved = (run.student.net.output.weight - network(TRACTEDM()).net.output.weight).view(-1)[:3]
    assert moved.tolist() == pytest.approx([0.0, -0.01, 0.01], abs=1e-7)

    run.train_step()
    hook.remove()
    run.train_step()
    assert run.nonfinite_gradients == 6
    assert clean.nonfinite_gradients == 0
    assert all(bool(p.isfinite().all()) for p in run.student.parameters())


def test_the_count_of_replaced_gradients_survives_a_checkpoint(tmp_path):
    run = distillation(TRACTEDM(), gradients="replace_nonfinite")
    hook = poisoned(run, [math.nan] * 2)
    run.train_step()
    hook.remove()
    checkpoints = Checkpoints(tmp_path, "ef" * 32)
    checkpoints.save(run.state())
    resumed = distillation(TRACTEDM(), gradients="replace_nonfinite")
    resumed.restore(checkpoints.newest())
    assert resumed.nonfinite_gradients == 2


def test_large_finite_gradients_are_left_as_they_are():
    run = distillation(TRACTEDM(), gradients="replace_nonfinite")
    poisoned(run, [1e9, -1e7])
    run.train_step()
    assert run.student.net.output.weight.grad.view(-1)[:2].tolist() == [1e9, -1e7]
    assert run.nonfinite_gradients == 0


@pytest.mark.parametrize("limit", [1.0, 1e-3])
def test_gradients_are_clipped_to_a_norm_otherwise(limit):
    run = distillation(clip_norm=limit)
    poisoned(run, [1e4])
    run.train_step()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in run.student.parameters()))
    assert norm == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize("gradients", ["replace_nonfinite", "clip_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_fails_whatever_is_done_to_gradients(monkeypatch, gradients, value):
    class Failing(TRACTEDM):
        def target(self, batch, phase, progress, nets):
            target = super().target(batch, phase, progress, nets)
            return type(target)(torch.full_like(target.x0, value), target.weight)

    monkeypatch.setattr(engine, "LOG_EVERY", 1)
    run = distillation(Failing(), gradients=gradients)
    with pytest.raises(RunFailedError, match=r"^diverged: loss is (nan|inf) at step 1 of 10"):
        run.train_step()


# the start of a phase


def watched_steps(base, phase_start):
    """What teacher and student say at each step, and how often Adam and the self-teacher moved before it."""
    seen = []

    class Watching(base):
        def target(self, batch, phase, progress, nets):
            said = [net(batch.x_t, batch.times.t) for net in (nets.teacher, nets.frozen)]
            adam = {int(state["step"]) for state in run.optimiser.state.values()}
            average = run.self_teacher.updates if run.self_teacher is not None else None
            seen.append((phase, *said, adam, average))
            return super().target(batch, phase, progress, nets)

    run = distillation(Watching(), phase_start=phase_start)
    while run.step < run.total:
        run.train_step()
    return seen


@pytest.mark.parametrize("base", [TRACT, BTD, TRACTEDM])
def test_a_student_that_starts_from_its_teacher_is_its_teacher_with_a_fresh_optimiser(base):
    seen = watched_steps(base, "from_teacher")
    for step in (0, STEPS):
        phase, teacher, student, adam, average = seen[step]
        assert phase == (Phase(8, 4), Phase(4, 2))[step // STEPS]
        assert torch.equal(teacher, student)
        assert adam == set()
        assert average == (0 if base.self_teacher else None)
    assert seen[-1][3] == {STEPS - 1}
    assert not torch.equal(seen[STEPS - 1][1], seen[STEPS][1])  # the second phase has another teacher


@pytest.mark.parametrize("base", [TRACT, BTD, TRACTEDM])
def test_a_student_that_continues_keeps_its_weights_and_its_optimiser(base):
    seen = watched_steps(base, "continue")
    phase, teacher, student, adam, average = seen[STEPS]
    assert phase == Phase(4, 2)
    assert not torch.equal(teacher, student)
    assert adam == {STEPS}
    assert average == (STEPS if base.self_teacher else None)
    assert seen[-1][3] == {2 * STEPS - 1}


def test_a_method_without_self_teacher_keeps_none():
    assert distillation(BTD()).self_teacher is None
    assert distillation(TRACT()).self_teacher is not None
