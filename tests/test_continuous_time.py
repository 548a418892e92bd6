"""Consistency in continuous time: tangents on one Gaussian, and forward mode through the networks."""

from dataclasses import replace

import pytest
import torch
from consistency_data import (
    VE40,
    exact_denoiser,
    exact_jump,
    expected_batch,
    order,
    random_batch,
    solution,
    tiny_network,
    unused,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tractbench.consistency import derivative_along
from tractbench.diffusion.denoiser import SigmaDenoiser
from tractbench.diffusion.preconditioning import SIGMA_DATA
from tractbench.diffusion.processes import per_sample
from tractbench.method import Nets, Phase, Times
from tractbench.methods.scm import SCM, in_trigflow, raw_output
from tractbench.nets.build import build_network
from tractbench.seeds import generator


def test_scm_asks_no_teacher_below_the_levels_that_its_network_knows():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1, None].repeat(1, 2)
    limited = replace(VE40, network_sigma_min=0.02)
    free, sigma = (one.sigma(SCM().times(u, Phase(40, 1), 0.0, one).t) for one in (VE40, limited))
    assert float(free.min()) < 0.01
    torch.testing.assert_close(sigma, free.clamp(min=0.02))
    assert limited.key == VE40.key | {"network_sigma_min": 0.02}  # its students have names of their own


ANGLES = torch.tensor([0.004, 0.3, 1.1, 1.4, 1.55], dtype=torch.float64)
EVERYWHERE = VE40.time(SIGMA_DATA * torch.tan(ANGLES))


def everywhere():
    return Times(EVERYWHERE, EVERYWHERE, torch.zeros_like(EVERYWHERE))


def test_raw_output_is_minus_edm_s_network():
    denoiser = SigmaDenoiser(tiny_network(), VE40)
    x = torch.randn((5, 3, 1, 1), dtype=torch.float64, generator=generator("x"))
    sigma = SIGMA_DATA * torch.tan(ANGLES)
    x0 = denoiser(x / per_sample(torch.cos(ANGLES), x), EVERYWHERE)
    expected = -denoiser.net(x / SIGMA_DATA, sigma.log() / 4)  # c_in x_sigma = x / sigma_data
    torch.testing.assert_close(raw_output(x, ANGLES, x0), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("velocity", ["teacher", "data"])
def test_the_tangent_of_an_exact_consistency_function_vanishes_at_all_times(velocity):
    make = random_batch if velocity == "teacher" else expected_batch
    nets = Nets(exact_denoiser(VE40), unused, exact_jump(VE40))
    frozen, g = SCM(velocity=velocity, difference=0).tangent_of(make(VE40, everywhere()), nets, 1.0)
    assert float(frozen.abs().max()) > 0.1
    torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-8)


def test_the_tangent_is_cos_times_the_derivative_along_the_teacher_s_path():
    student = SigmaDenoiser(tiny_network(), VE40)
    batch = random_batch(VE40, everywhere())
    _, g = SCM(difference=0).tangent_of(batch, Nets(exact_denoiser(VE40), unused, student), 1.0)

    def f(shift):
        angle = ANGLES + shift
        t = VE40.time(SIGMA_DATA * torch.tan(angle))
        return student(solution(VE40, batch.x_t, EVERYWHERE, t), t)

    step = 1e-5
    slope = (f(step) - f(-step)) / (2 * step)
    torch.testing.assert_close(g, per_sample(torch.cos(ANGLES), slope) * slope, rtol=1e-4, atol=1e-5)


def test_differences_tend_to_the_derivative_with_their_step():
    nets = Nets(exact_denoiser(VE40), unused, exact_denoiser(VE40))
    batch = random_batch(VE40, everywhere())
    _, exact = SCM(difference=0).tangent_of(batch, nets, 1.0)

    def error(steps):
        return float((SCM(difference=1 / steps).tangent_of(batch, nets, 1.0)[1] - exact).norm())

    assert error(100) < 0.1 * float(exact.norm())
    assert order(error, 100) == pytest.approx(1, abs=0.1)


def test_the_tangent_starts_with_its_stable_term_alone():
    student = SigmaDenoiser(tiny_network(), VE40)
    batch = random_batch(VE40, everywhere())
    frozen, g = SCM().tangent_of(batch, Nets(exact_denoiser(VE40), unused, student), 0.0)
    cos, sin = (per_sample(value, g) for value in (torch.cos(ANGLES), torch.sin(ANGLES)))
    velocity = (cos * cos * batch.x_t - exact_denoiser(VE40)(batch.x_t, EVERYWHERE)) / sin
    torch.testing.assert_close(g, -(cos**2) * (SIGMA_DATA * frozen - velocity))


class Scaled(nn.Module):
    """A denoiser times a parameter."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.scale = denoiser, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t, labels=None, *t_end):
        return self.scale * self.denoiser(x, t, labels, *t_end)


@pytest.mark.parametrize("method", [SCM(difference=0), SCM(difference=0, weighting="none", tangent="clip")])
def test_an_exact_student_is_a_fixed_point_of_scm(method):
    batch = random_batch(VE40, everywhere())
    nets = Nets(exact_denoiser(VE40), unused, exact_jump(VE40), method.modules((3, 1, 1)))
    right, wrong = Scaled(exact_jump(VE40)), Scaled(exact_jump(VE40))
    method.objective(batch, Phase(40, 1), 0.9, nets, right).sum().backward()
    assert abs(float(right.scale.grad)) < 1e-6
    off = Nets(nets.teacher, unused, lambda x, t, labels=None: 0.9 * exact_jump(VE40)(x, t), nets.modules)
    method.objective(batch, Phase(40, 1), 0.9, off, wrong).sum().backward()
    assert abs(float(wrong.scale.grad)) > 1e-2


def test_the_weighting_starts_at_one_and_learns_the_inverse_of_the_error():
    weighting = SCM().modules((3, 1, 1))["weighting"]
    assert torch.equal(weighting(ANGLES), torch.zeros(5))
    assert SCM(weighting="none").modules((3, 1, 1)) == {}


# --- forward mode through the networks

UNET = {"channels": 1, "size": 8, "width": 32, "embedding": 16, "multipliers": (1, 1), "blocks": 1, "attention": (4,)}
NETWORKS = [
    ("mlp", {"channels": 1, "size": 8, "width": 16, "blocks": 1, "embedding": 8, "c_noise": 1}),
    ("song_unet", {**UNET, "noise_width": 16, "fourier": False, "auxiliary": False, "taps": (1, 1)}),
    ("song_unet", {**UNET, "noise_width": 16, "fourier": True, "auxiliary": True, "taps": (1, 3, 3, 1)}),
    ("dhariwal_unet", {**UNET}),
    ("google_unet", {**UNET, "head_width": 16}),
]


@pytest.mark.parametrize(("name", "arguments"), NETWORKS)
def test_derivatives_along_a_direction_pass_through_every_network(name, arguments):
    net = build_network(name, arguments, generator(name)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator("more")))
    x, dx = (torch.randn((2, 1, 8, 8), dtype=torch.float64, generator=generator(n)) for n in ("x", "dx"))
    noise, dnoise = torch.tensor([-0.3, 0.2], dtype=torch.float64), torch.tensor([0.5, -0.4], dtype=torch.float64)
    with torch.no_grad():
        with sdpa_kernel(SDPBackend.MATH):  # as the engine does: fused attention has no such derivative
            value, slope = derivative_along(net, x, noise, dx, dnoise)
        torch.testing.assert_close(value, net(x, noise), rtol=1e-10, atol=1e-12)
        step = 2e-5
        stencil = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}  # of fourth order: embeddings turn fast
        differences = [weight * net(x + k * step * dx, noise + k * step * dnoise) for k, weight in stencil.items()]
    torch.testing.assert_close(slope, sum(differences) / step, rtol=1e-5, atol=1e-6)
    assert float(slope.abs().max()) > 1e-2


@pytest.mark.parametrize(("name", "arguments"), NETWORKS)
def test_networks_take_an_embedding_beside_that_of_the_noise_level(name, arguments):
    from tractbench.nets.embedding import embedding_width

    net = build_network(name, arguments, generator(name))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05)
        x, noise = torch.randn((2, 1, 8, 8), generator=generator("x")), torch.tensor([-0.3, 0.2])
        plain = net(x, noise)
        width = embedding_width(net)
        assert torch.equal(net(x, noise, extra=torch.zeros((2, width))), plain)
        assert not torch.allclose(net(x, noise, extra=torch.ones((2, width))), plain)


def test_in_trigflow_is_the_network_of_the_state():
    denoiser = SigmaDenoiser(tiny_network(), VE40)
    x = torch.randn((5, 3, 1, 1), dtype=torch.float64, generator=generator("x"))
    expected = -denoiser.net(x / SIGMA_DATA, (SIGMA_DATA * torch.tan(ANGLES)).log() / 4)
    torch.testing.assert_close(in_trigflow(denoiser, VE40, None)(x, ANGLES), expected, rtol=1e-8, atol=1e-8)
