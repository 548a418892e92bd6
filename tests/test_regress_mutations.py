"""Wrong code is caught by what holds on any machine: the tolerances of the baseline that ships, without its bits."""

from dataclasses import replace

import pytest
import torch

import tractbench.evaluation.sampling
import tractbench.method
import tractbench.methods.btd
import tractbench.methods.cd
import tractbench.methods.tract
import tractbench.methods.tract_edm
import tractbench.training.ema
from tractbench.diffusion.processes import per_sample
from tractbench.diffusion.solvers import ddim_step
from tractbench.method import Times
from tractbench.methods.ect import ECT
from tractbench.methods.mscd import MSCD
from tractbench.methods.scm import SCM
from tractbench.methods.tract import TRACT
from tractbench.regress.baseline import SHIPPED, read_baseline
from tractbench.regress.cells import measure
from tractbench.regress.compare import compare
from tractbench.training.distillation import Distillation

BASELINE = read_baseline(SHIPPED)


def compared(cell, folder):
    """How a cell compares on another kind of machine than the baseline's."""
    kept = BASELINE.cells[cell]
    return compare(cell, kept, measure(kept.settings, folder), "tolerance")


def flipped_noise(process, x_t, x0, t, s):
    """alpha_s x0 - sigma_s eps."""
    return 2 * per_sample(process.alpha(s), x_t) * x0 - ddim_step(process, x_t, x0, t, s)


def swapped_scales(process, x_t, x0, t, s):
    """sigma_s x0 + alpha_s eps."""
    eps = (x_t - per_sample(process.alpha(t), x_t) * x0) / per_sample(process.sigma(t), x_t)
    return per_sample(process.sigma(s), x_t) * x0 + per_sample(process.alpha(s), x_t) * eps


def never_the_last(u, phase):
    """group_times whose k stops one before the group's last step."""
    lower = torch.floor(u[:, 0] * phase.end)
    index = (lower + 1) * phase.group - torch.floor(u[:, 1] * max(1, phase.group - 1))
    return Times(t=index / phase.start, t_next=(index - 1) / phase.start, t_end=lower / phase.end)


def sign_in_the_step(patch):
    patch.setattr(tractbench.methods.tract, "ddim_step", flipped_noise)


def sign_in_the_tangent(patch):
    right = SCM.tangent_of
    patch.setattr(SCM, "tangent_of", lambda *a: (lambda frozen, g: (frozen, -g))(*right(*a)))


def sign_in_the_gap(patch):
    right = ECT.times
    patch.setattr(ECT, "times", lambda self, *a: right(self.model_copy(update={"b": -self.b}), *a))


def off_by_one_in_a_group(patch):
    patch.setattr(tractbench.method, "group_times", never_the_last)


def half_a_heun_step(patch):
    patch.setattr(
        tractbench.methods.cd, "heun_step", lambda net, process, x, t, s, labels, x0: ddim_step(process, x, x0, t, s)
    )


def ema_weight_of_the_next_update(patch):
    right = tractbench.training.ema.ema_weight
    patch.setattr(tractbench.training.ema, "ema_weight", lambda momentum, update: right(momentum, update + 1))


def alpha_and_sigma_swapped(patch):
    patch.setattr(tractbench.methods.btd, "ddim_step", swapped_scales)


def snr_upside_down(patch):
    patch.setattr(MSCD, "weight", lambda self, process, t: (1 + torch.exp(-process.log_snr(t))).sqrt())


def target_not_clipped(patch):
    right = TRACT.target
    patch.setattr(TRACT, "target", lambda self, *a: right(self.model_copy(update={"clip_target": False}), *a))


def samples_not_clipped(patch):
    right = tractbench.evaluation.sampling.sample_ode
    patch.setattr(tractbench.evaluation.sampling, "sample_ode", lambda *a, **k: right(*a, **(k | {"clip": False})))


def teacher_not_switched(patch):
    right = Distillation._set_teacher
    patch.setattr(Distillation, "_set_teacher", lambda self, new: None if self.step else right(self, new))


def one_label_for_all(patch):
    right = TRACT.target
    patch.setattr(
        TRACT, "target", lambda self, batch, *a: right(self, replace(batch, labels=torch.zeros_like(batch.labels)), *a)
    )


def self_teacher_is_the_teacher(patch):
    right = tractbench.methods.tract_edm.TRACTEDM.target
    patch.setattr(
        tractbench.methods.tract_edm.TRACTEDM, "target",
        lambda self, batch, phase, progress, nets: right(
            self, batch, phase, progress, replace(nets, self_teacher=nets.teacher)
        ),
    )  # fmt: skip


POINTS = "mixture2d:conditional"

MUTATIONS = [
    (sign_in_the_step, f"tract/{POINTS}/vp"),
    (sign_in_the_tangent, f"scm/{POINTS}/ve"),
    (sign_in_the_gap, f"ect/{POINTS}/ve"),
    (off_by_one_in_a_group, f"tract/{POINTS}/vp"),
    (half_a_heun_step, f"cd/{POINTS}/ve"),
    (ema_weight_of_the_next_update, f"tract/{POINTS}/vp"),
    (alpha_and_sigma_swapped, f"btd/{POINTS}/vp"),
    (snr_upside_down, f"mscd/{POINTS}/vp"),
    (target_not_clipped, "tract/digits/vp"),
    (samples_not_clipped, "ddim/digits/vp"),
    (teacher_not_switched, f"tract/{POINTS}/vp"),
    (one_label_for_all, f"tract/{POINTS}/vp"),
    (self_teacher_is_the_teacher, "tract_edm/digits/ve"),
]


@pytest.mark.parametrize(("mutation", "cell"), MUTATIONS, ids=[mutation.__name__ for mutation, _ in MUTATIONS])
def test_a_mutation_is_outside_of_the_tolerance(mutation, cell, monkeypatch, tmp_path):
    mutation(monkeypatch)
    found = compared(cell, tmp_path)
    print(f"{mutation.__name__} {cell} {found.ratio:.3g} {found.worst}")
    assert not found.equal
    assert found.ratio > 10  # far from what chance or another processor decides


def test_a_label_that_is_dropped_altogether_stops_the_run(monkeypatch, tmp_path):
    right = TRACT.target
    monkeypatch.setattr(TRACT, "target", lambda self, batch, *a: right(self, replace(batch, labels=None), *a))
    with pytest.raises(ValueError, match="needs labels"):
        compared(f"tract/{POINTS}/vp", tmp_path)


@pytest.mark.parametrize("cell", [f"tract/{POINTS}/vp", "ddim/digits/vp"])
def test_right_code_is_inside_of_the_tolerance(cell, tmp_path):
    found = compared(cell, tmp_path)
    assert found.equal, found.said
    assert found.ratio <= 1
