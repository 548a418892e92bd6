"""MeanFlow against closed forms on one Gaussian N(M, S), and its network of two times."""

import pytest
import torch
from torch import nn

from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.denoiser import SigmaDenoiser, X0Denoiser
from tractbench.diffusion.processes import VE, VP, per_sample
from tractbench.diffusion.solvers import ddim_inverse, sample_ode
from tractbench.errors import ConfigError
from tractbench.method import Batch, Nets, Phase, Times
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench_meanflow.method import MeanFlow, to_linear
from tractbench_meanflow.network import TwoTimeDenoiser

M = torch.tensor([0.3, -0.6, 0.1], dtype=torch.float64)
S = torch.tensor([[0.5, 0.2, -0.05], [0.2, 0.3, 0.02], [-0.05, 0.02, 0.04]], dtype=torch.float64)
VALUES, VECTORS = torch.linalg.eigh(S)
PROCESS = VE(40)
TEACHER = MixtureDenoiser(PROCESS, torch.ones(1), M[None], S[None])
TAU = torch.tensor([0.02, 0.3, 0.5, 0.7, 0.9, 0.98, 0.6], dtype=torch.float64)
R = torch.tensor([0.0, 0.1, 0.49, 0.0, 0.3, 0.0, 0.6], dtype=torch.float64)


def solution(x, t, s):
    """Where the ODE leads from x at t to s: each axis shrinks with the marginal standard deviation."""
    ratio = ((VALUES + PROCESS.sigma(s)[:, None] ** 2) / (VALUES + PROCESS.sigma(t)[:, None] ** 2)).sqrt()
    return (((x.flatten(1) - M) @ VECTORS * ratio) @ VECTORS.T + M).reshape(x.shape)


def exact(x, t, labels=None, *t_end):
    """The x0 whose DDIM step leads along the ODE to the end of the jump; the teacher's where that is t itself."""
    here = t_end[0] == t
    s = torch.where(here, 0.5 * t, t_end[0])
    x0 = ddim_inverse(PROCESS, x, solution(x, t, s), t, s)
    return torch.where(per_sample(here, x), TEACHER(x, t), x0)


def unused(x, t, labels=None, *t_end):
    raise AssertionError("no such network is needed")


def batch_of(expected=False):
    t, t_end = PROCESS.time(TAU / (1 - TAU)), PROCESS.time(R / (1 - R))
    t_end = torch.where(R == TAU, t, t_end)
    random = generator("meanflow")
    x0, noise = torch.randn((2, len(t), 3, 1, 1), dtype=torch.float64, generator=random)
    x_t = x0 + per_sample(PROCESS.sigma(t), x0) * noise
    if expected:  # of the image and the noise given x_t: what is affine in them is then an expectation
        x0 = TEACHER(x_t, t)
        noise = (x_t - x0) / per_sample(PROCESS.sigma(t), x0)
    return Batch(x_t, Times(t, t, t_end), None, x0, noise, PROCESS)


@pytest.mark.parametrize("velocity", ["teacher", "data"])
def test_the_exact_mean_velocity_satisfies_the_identity(velocity):
    batch = batch_of(expected=velocity == "data")
    found = MeanFlow(velocity=velocity).mean_velocity(batch, Nets(TEACHER, unused, exact))
    z, tau = to_linear(batch)
    z_r = solution(batch.x_t, batch.times.t, batch.times.t_end) * per_sample(1 - R, z)
    jumps = R < TAU
    mean = (z - z_r)[jumps] / per_sample(tau - R, z)[jumps]
    torch.testing.assert_close(found[jumps], mean, rtol=0, atol=1e-8)
    instant = (z - TEACHER(batch.x_t, batch.times.t)) / per_sample(tau, z)
    torch.testing.assert_close(found[~jumps], instant[~jumps], rtol=0, atol=1e-8)


@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_any_number_of_exact_jumps_leads_where_the_ode_does(nfe):
    sampler = MeanFlow().sampler(nfe, PROCESS)
    x = 80 * torch.randn((5, 3, 1, 1), dtype=torch.float64, generator=generator("x"))
    one, zero = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    samples = sample_ode(exact, PROCESS, x, sampler, two_times=True, clip=False)
    torch.testing.assert_close(samples, solution(x, one, zero), rtol=0, atol=1e-9)
    sigma = PROCESS.sigma(torch.tensor(sampler.times, dtype=torch.float64))
    steps = torch.diff(sigma / (1 + sigma))
    torch.testing.assert_close(steps, torch.full_like(steps, -80 / 81 / nfe))


def test_times_are_sorted_and_the_share_of_jumps_is_the_option():
    u = torch.rand((4096, 3), dtype=torch.float64, generator=generator("u"))
    times = MeanFlow(jumps=0.25, time_mean=-0.4, time_std=1.0).times(u, Phase(40, 1), 0.0, PROCESS)
    assert bool((times.t_end <= times.t).all())
    assert float((times.t_end < times.t).double().mean()) == pytest.approx(0.25, abs=0.03)
    sigma = PROCESS.sigma(times.t)
    # the larger of two logit-normals: both are below the median with probability one quarter
    assert float((sigma.log() < -0.4).double().mean()) == pytest.approx(0.25, abs=0.03)
    repeated = MeanFlow().times(u, Phase(40, 40), 0.0, PROCESS)
    assert torch.equal(repeated.t, repeated.t_end)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t, labels=None, *t_end):
        return self.scale * exact(x, t, labels, *t_end)


def test_an_exact_student_is_a_fixed_point():
    student = Scaled()
    MeanFlow().objective(batch_of(), Phase(40, 1), 0.5, Nets(TEACHER, unused, exact), student).sum().backward()
    assert abs(float(student.scale.grad)) < 1e-6


def network():
    net = build_network(
        "mlp", {"channels": 3, "size": 1, "width": 16, "blocks": 1, "embedding": 8, "c_noise": 1}, generator("net")
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():  # branches start at zero, and would hide what passes through them
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator("more")))
    return SigmaDenoiser(net, PROCESS)


def test_the_network_of_two_times_starts_as_the_teacher_and_then_sees_the_end():
    teacher, batch = network(), batch_of()
    student = MeanFlow().parameterise(teacher, PROCESS)
    x, t, s = batch.x_t, batch.times.t, batch.times.t_end
    assert torch.equal(student(x, t, None, s), teacher(x, t))
    assert torch.equal(student(x, t), teacher(x, t))
    with torch.no_grad():
        student.outer.add_(0.5)
    assert torch.equal(student(x, t, None, t), student(x, t))
    assert not torch.allclose(student(x, t, None, s), student(x, t))


def test_the_target_is_the_velocity_less_the_derivative_along_it():
    student, batch = TwoTimeDenoiser(network(), PROCESS), batch_of()
    with torch.no_grad():
        student.outer.add_(0.5)
        target = MeanFlow().mean_velocity(batch, Nets(TEACHER, unused, student))
        z, tau = to_linear(batch)
        v = (z - TEACHER(batch.x_t, batch.times.t)) / per_sample(tau, z)

        def u(shift):
            later = tau + shift
            moved = z + shift * v
            x0 = student(moved / per_sample(1 - later, z), PROCESS.time(later / (1 - later)), None, batch.times.t_end)
            return (moved - x0) / per_sample(later, z)

        step = 1e-6
        slope = (8 * (u(step) - u(-step)) - (u(2 * step) - u(-2 * step))) / (12 * step)
    torch.testing.assert_close(target, v - per_sample(tau - R, z) * slope, rtol=1e-5, atol=1e-5)


def test_a_teacher_without_a_preconditioning_is_refused():
    with pytest.raises(ConfigError, match="choose another --teacher"):
        MeanFlow().parameterise(X0Denoiser(network().net, VP()), PROCESS)


def test_options_are_described():
    assert all(field.description for field in MeanFlow.model_fields.values())
