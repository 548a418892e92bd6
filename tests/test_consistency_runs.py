"""The consistency methods through the engine: students of an exact teacher, from a fresh network on."""

import json
import math
from pathlib import Path

import pytest
import torch

from tractbench.config.fields import RunConfig
from tractbench.config.resolve import resolve
from tractbench.datasets.gaussian import Gaussian
from tractbench.diffusion.denoiser import SigmaDenoiser, X0Denoiser
from tractbench.diffusion.processes import VE, VP
from tractbench.methods.cd import CD
from tractbench.methods.ect import ECT
from tractbench.methods.mscd import MSCD
from tractbench.methods.scm import SCM
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench.training.distillation import Distillation

STEPS = 6


pytestmark = pytest.mark.usefixtures("one_thread")


def distillation(method):
    process = VP() if method.processes == ("vp",) else VE(40)
    data = Gaussian("2")
    config = RunConfig.model_validate(
        {
            **method.defaults,
            "method": method.name,
            "dataset": "gaussian:2",
            "tier": "smoke",
            "process": process.name,
            "teacher": "exact",
            "grid_steps": process.default_steps,
            "schedule": (32, 32, 1) if process.name == "vp" else (40, 40, 1),
            "student": "mlp",
            "budget": 8 * STEPS,
            "batch": 8,
            "lr": 3e-3,
        }
    )

    def new_network(name):
        sizes = {"channels": 2, "size": 1, "width": 32, "blocks": 1, "embedding": 16}
        if process.name == "vp":
            return X0Denoiser(build_network("mlp", sizes, generator("runs")), process)
        return SigmaDenoiser(build_network("mlp", {**sizes, "c_noise": 1}, generator("runs")), process)

    teacher = data.exact_denoiser(process)
    return Distillation(config, method, process, teacher, data.train, new_network=new_network)


METHODS = [CD(), CD(metric="l2", teacher_step="ddim"), ECT(), SCM(), MSCD(adjustment=0.5)]


def stepped(run, steps):
    for _ in range(steps):
        run.train_step()
    run.close()
    return run


@pytest.mark.parametrize("method", METHODS)
def test_a_student_of_an_exact_teacher_learns_from_a_fresh_network_and_resumes_to_the_same_bits(method):
    whole, first, second = (distillation(method) for _ in range(3))
    begun = [parameter.detach().clone() for parameter in whole.student.parameters()]
    stepped(whole, STEPS)
    second.restore(stepped(first, STEPS - 1).state())
    stepped(second, 1)
    assert all(math.isfinite(point.loss) for point in whole.losses)
    assert not all(torch.equal(a, b) for a, b in zip(begun, whole.student.parameters(), strict=True))
    ours, theirs = whole.state().tensors, second.state().tensors
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_trained_student_of_cd_is_still_the_identity_at_sigma_min():
    run = stepped(distillation(CD()), STEPS)
    x = torch.randn((4, 2, 1, 1), dtype=torch.float64, generator=generator("x"))
    with torch.no_grad():
        f = run.averaged()(x, VE(40).time(torch.full((4,), 0.002, dtype=torch.float64)))
    torch.testing.assert_close(f, x)


def test_scm_s_weighting_is_trained_with_the_student():
    run = stepped(distillation(SCM()), STEPS)
    assert float(run.modules["weighting"].bias.detach().abs()) > 0


@pytest.mark.parametrize(
    ("method", "dataset", "schedule"),
    [
        ("cd", "digits", (40, 1)), ("ect", "digits", (40, 1)), ("scm", "digits", (40, 1)),
        ("mscd", "digits", (1024, 4)),
        ("cd", "mixture2d", (40, 40, 1)), ("ect", "mixture2d", (40, 40, 1)), ("scm", "mixture2d", (40, 40, 1)),
        ("mscd", "mixture2d", (1024, 1024, 4)),
    ],
)  # fmt: skip
def test_default_schedules(method, dataset, schedule):
    config, _, _ = resolve({"method": method, "dataset": dataset, "nfe": 4})
    assert config.schedule == schedule
    assert config.student == ("mlp" if dataset == "mixture2d" else None)


def test_a_schedule_of_cd_moves_the_grid():
    config, _, _ = resolve({"method": "cd", "dataset": "digits", "schedule": "18,1", "nfe": 2})
    assert (config.grid_steps, config.schedule) == (18, (18, 1))


def test_levels_of_one_evaluation_count_leave_the_student_and_its_error_as_they_are(tractbench):
    words = ("run", "--method", "ect", "--dataset", "digits", "--tier", "smoke", "--budget", 256, "--samples", 100,
             "--sampling-seeds", "0", "--json", "-q")  # fmt: skip
    found = [tractbench(*words, *more) for more in (("--nfe", 2, "--set", "levels=0.8"), ("--nfe", 1), ("--nfe", 2))]
    assert [one.code for one in found] == [0, 0, 0], found[0].err
    records = [json.loads((Path(one.json["run_dir"]) / "record.json").read_text()) for one in found]
    assert len({record["identity"] for record in records}) == 3
    assert len({record["student"] for record in records}) == 1
    two, one, default = records
    assert two["distillation_errors"] == one["distillation_errors"] == default["distillation_errors"] != []
    assert two["metrics"] != default["metrics"]


@pytest.mark.parametrize("given", [(0.8, 0.1), [0.8, 0.1], "0.8, 0.1", "0.8,0.1,"])
def test_options_of_several_values_take_what_people_write(given):
    assert CD(levels=given).levels == (0.8, 0.1)
    assert CD(levels=0.8).levels == CD(levels="0.8").levels == (0.8,)
    assert CD(levels="").levels == ()
    with pytest.raises(ValueError, match="valid number"):
        CD(levels="0.8;0.1")
