"""Preconditionings and the denoisers that they make of networks, against tables and closed forms."""

import math

import pytest
import torch
from nets_data import NETS, SigmaIsTime, filled, inputs, random
from torch.testing import assert_close

from tractbench.diffusion.denoiser import BothDenoiser, SigmaDenoiser, x0_from_both
from tractbench.diffusion.preconditioning import EDM, IDDPM, VESong, VPLinear
from tractbench.diffusion.processes import VP as CosineVP

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def nets():
    return {name: filled(build()) for name, build in NETS.items()}


@pytest.mark.parametrize(
    ("sigma", "edm", "vp_noise", "ve_noise"),
    [
        (0.001, (0.999996000, 0.000999998, 1.999996, -1.72693882), 0.00998007, -7.60090246),
        (0.01, (0.999600160, 0.009998001, 1.999600, -1.15129255), 0.91547600, -5.29831737),
        (0.5, (0.5, 0.353553391, 1.414213562, -0.17328680), 144.669106, -1.38629436),
        (1.0, (0.2, 0.447213595, 0.894427191, 0), 258.701302, -0.69314718),
        (10.0, (0.00249376559, 0.499376169, 0.0998752339, 0.57564627), 675.368914, 1.60943791),
    ],
)
def test_coefficients_have_their_tabled_values(sigma, edm, vp_noise, ve_noise):
    level = torch.tensor(sigma, dtype=torch.float64)
    assert EDM().coefficients(level) == pytest.approx(edm, rel=1e-6, abs=1e-12)
    scale = 1 / math.sqrt(sigma**2 + 1)
    assert VPLinear().coefficients(level) == pytest.approx((1, -sigma, scale, vp_noise), rel=1e-6)
    assert VESong().coefficients(level) == pytest.approx((1, sigma, 1, ve_noise), rel=1e-8)
    assert IDDPM().coefficients(level)[:3] == pytest.approx((1, -sigma, scale))


def test_ranges_of_the_noise_levels():
    ranges = [(scheme.sigma_min, scheme.sigma_max) for scheme in (EDM(), VPLinear(), VESong(), IDDPM())]
    assert ranges[0] == (0, math.inf)
    assert ranges[1] == pytest.approx((0.00100050, 152.167), rel=1e-5)
    assert ranges[2] == (0.02, 100)
    assert ranges[3] == pytest.approx((0.00642541, 20291.17), rel=1e-6)


def test_vp_noise_is_linear_in_time():
    t = torch.linspace(0.001, 1, 100, dtype=torch.float64)
    assert_close(VPLinear().coefficients(VPLinear().sigma(t)).noise, 999 * t, rtol=1e-9, atol=1e-9)


def test_iddpm_levels():
    scheme = IDDPM()
    known = {1: 641.66235, 2: 320.83039, 8: 80.20370, 100: 6.3645918, 500: 1.0123896, 900: 0.16943564}
    known |= {998: 0.00935049, 999: 0.00642541, 1000: 0.0}
    assert {j: scheme.u[j].item() for j in known} == pytest.approx(known, rel=1e-6)
    u = torch.zeros(1001, dtype=torch.float64)
    for j in range(1000, 0, -1):  # the definition, of which the table is the closed form
        abar = [math.sin(math.pi / 2 * i / (1000 * 1.008)) ** 2 for i in (j - 1, j)]
        u[j - 1] = ((u[j] ** 2 + 1) / max(abar[0] / abar[1], 0.001) - 1).sqrt()
    assert_close(scheme.u, u, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_iddpm_rounds_to_its_levels(dtype):
    scheme, index = IDDPM(), torch.arange(1001)
    u = scheme.u.to(dtype)
    assert torch.equal(scheme.coefficients(u).noise, (999 - index).to(dtype))
    middle = (u[1:] + u[:-1]) / 2
    assert torch.equal(scheme.index(middle * (1 + 1e-4))[:-1], index[:-2])
    assert torch.equal(scheme.index(middle * (1 - 1e-4))[:-1], index[1:-1])
    coarse = IDDPM(u=torch.tensor([3.0, 1.0, 0.0]))
    assert coarse.index(torch.tensor([2.0, 0.5])).tolist() == [0, 1]  # ties go to the lower index


@pytest.mark.parametrize("scheme", [EDM(), VPLinear(), VESong(), IDDPM()])
@torch.no_grad()
def test_the_denoiser_combines_image_and_network(nets, scheme):
    x, _, labels = inputs("A1")
    sigma = torch.tensor([0.4, 3.0])
    denoised = SigmaDenoiser(nets["A1"], SigmaIsTime(), scheme)(x.double(), sigma.double(), labels)
    c = scheme.coefficients(sigma)
    skip, out, scale = (value[:, None, None, None] for value in c[:3])
    expected = skip * x + out * nets["A1"](scale * x, c.noise, labels)[:, :3]
    assert denoised.dtype == torch.float32
    assert_close(denoised, expected)


def test_exact_predictions_of_x_and_eps_give_x():
    x, eps = random(9, 3, 4, 4).double(), random(9, 3, 4, 4, seed=1).double()
    log_snr = torch.linspace(-20, 20, 9, dtype=torch.float64)
    alpha, sigma = log_snr.sigmoid().sqrt()[:, None, None, None], (-log_snr).sigmoid().sqrt()[:, None, None, None]
    assert_close(x0_from_both(torch.cat([x, eps], 1), alpha * x + sigma * eps, log_snr), x, atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_network_of_both_heads_is_a_denoiser(nets):
    x, _, labels = inputs("G2")
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    log_snr = CosineVP().log_snr(t).float()
    first, eps = nets["G2"](x, log_snr, labels).double().chunk(2, dim=1)
    alpha, sigma = (f(t)[:, None, None, None] for f in (CosineVP().alpha, CosineVP().sigma))
    expected = sigma**2 * first + alpha**2 * (x - sigma * eps) / alpha
    assert_close(BothDenoiser(nets["G2"], CosineVP())(x.double(), t, labels).double(), expected, atol=1e-5, rtol=1e-5)
