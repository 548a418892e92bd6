"""A sampler as numbers makes the images of the sampler itself; code in one file computes what its modules do."""

import ast
import importlib

import pytest
import torch

from tractbench.diffusion.denoiser import BothDenoiser, SigmaDenoiser, X0Denoiser
from tractbench.diffusion.preconditioning import IDDPM, VESong, VPLinear
from tractbench.diffusion.processes import VE, VP
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import ConfigError
from tractbench.export.bundle import bundled
from tractbench.export.loop import run_sampler
from tractbench.export.recipe import make_recipe
from tractbench.methods.cd import BoundedDenoiser
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench_meanflow.network import TwoTimeDenoiser

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 8, 8)
MLP = {"channels": 3, "size": 8, "width": 16, "blocks": 1, "embedding": 8}
UNET = {"channels": 3, "size": 8, "width": 16, "embedding": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
NETWORKS = {
    "mlp": MLP,
    "google_unet": {**UNET, "width": 32, "outputs": 6, "head_width": 8},
    "song_unet": {**UNET, "noise_width": 16, "fourier": True, "auxiliary": True, "taps": (1, 3, 3, 1)},
    "dhariwal_unet": {**UNET, "width": 64, "outputs": 6},
}


def network(name, **further):
    """A network of which no layer is zero."""
    random = generator("tests", "export", name)
    made = build_network(name, {**NETWORKS[name], **further}, random).requires_grad_(False).eval()
    for parameter in made.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    return made


def two_times():
    made = TwoTimeDenoiser(SigmaDenoiser(network("mlp", c_noise=1), VE(40)), VE(40))
    made.outer.data.normal_(generator=generator("tests", "outer"))
    return made


DENOISERS = {
    "x0": lambda: X0Denoiser(network("mlp"), VP()),
    "x0 with classes": lambda: X0Denoiser(network("google_unet", outputs=0, classes=5), VP()),
    "both": lambda: BothDenoiser(network("google_unet"), VP()),
    "edm": lambda: SigmaDenoiser(network("mlp", c_noise=1), VE(40)),
    "edm with classes": lambda: SigmaDenoiser(network("song_unet", classes=5), VE(40)),
    "vp_linear": lambda: SigmaDenoiser(network("mlp", c_noise=1), VE(40), VPLinear()),
    "ve_song": lambda: SigmaDenoiser(network("mlp", c_noise=1), VE(40, 0.02, 100.0), VESong()),
    "iddpm": lambda: SigmaDenoiser(network("dhariwal_unet"), VE(40, 0.01, 80.0, rounding="iddpm"), IDDPM()),
    "bounded": lambda: BoundedDenoiser(SigmaDenoiser(network("mlp", c_noise=1), VE(40)), VE(40)),
    "two times": two_times,
}
SAMPLERS = {
    "one step": Sampler.equal(1),
    "ddim": Sampler.equal(5),
    "heun": Sampler.equal(4, "heun"),
    "fresh noise from 0": Sampler((1.0, 0.7, 0.3, 0.0), noise=(0.0, 0.0)),
    "fresh noise from between": Sampler((1.0, 0.75, 0.5, 0.0), noise=(0.25, 0.5)),
}


VE_ONE_TIME = ("edm", "edm with classes", "vp_linear", "ve_song", "iddpm", "bounded")
PAIRS = [(name, steps) for name in DENOISERS for steps in SAMPLERS if steps != "heun" or name in VE_ONE_TIME]


@pytest.mark.parametrize(("name", "steps"), PAIRS)
def test_a_recipe_makes_the_samplers_images(name, steps):
    denoiser, sampler = DENOISERS[name](), SAMPLERS[steps]
    process, classes, two = denoiser.process, 5 * ("classes" in name), name == "two times"
    random = generator("tests", "noise")
    noise = process.prior_std * torch.randn(3, *SHAPE, generator=random)
    fresh = [torch.randn(3, *SHAPE, generator=random) for _ in sampler.noise]
    labels = torch.tensor([4, 0, 2]) if classes else None
    own = sample_ode(denoiser, process, noise, sampler, labels, fresh=fresh, two_times=two)
    recipe = make_recipe(denoiser, process, sampler, SHAPE, classes=classes, two_times=two)
    inner = next(one.net for one in denoiser.modules() if isinstance(one, (X0Denoiser, SigmaDenoiser)))
    found = run_sampler(inner, recipe.evaluations, noise, labels, fresh)
    assert len(recipe.evaluations) == sampler.evaluations
    assert recipe.fresh == len(fresh)
    torch.testing.assert_close(found.double(), own, rtol=0, atol=1e-4)


def test_a_deterministic_step_keeps_alpha_x0_plus_sigma_noise():
    process = VP()
    recipe = make_recipe(DENOISERS["x0"](), process, Sampler.equal(4), SHAPE)
    for row, s in zip(recipe.evaluations, (0.75, 0.5, 0.25, 0.0), strict=True):
        t, s = (torch.tensor([time], dtype=torch.float64) for time in (row["time"], s))
        assert row["state"] * process.sigma(t) == pytest.approx(process.sigma(s))
        assert row["state"] * process.alpha(t) + row["x0"] == pytest.approx(process.alpha(s))


def test_fresh_noise_restores_the_variance_of_its_level():
    process, sampler = VP(), SAMPLERS["fresh noise from between"]
    first, second = make_recipe(DENOISERS["x0"](), process, sampler, SHAPE).evaluations[:2]
    for row, s in ((first, 0.75), (second, 0.5)):
        t, s = (torch.tensor([time], dtype=torch.float64) for time in (row["time"], s))
        assert (row["state"] * process.sigma(t)) ** 2 + row["fresh"] ** 2 == pytest.approx(process.sigma(s) ** 2)


def test_what_cannot_be_taken_apart_is_refused():
    class Twice(X0Denoiser):
        def forward(self, x_t, t, labels=None):
            return super().forward(super().forward(x_t, t, labels), t, labels)

    class Masked(X0Denoiser):
        def forward(self, x_t, t, labels=None):
            return super().forward(x_t, t, labels) * torch.arange(8)

    for kind, said in ((Twice, "asks its network 2 times"), (Masked, "treats pixels differently")):
        with pytest.raises(ConfigError, match=said):
            make_recipe(kind(network("mlp"), VP()), VP(), Sampler.equal(1), SHAPE)
    with pytest.raises(ConfigError, match="holds 0 denoisers"):
        make_recipe(network("mlp"), VP(), Sampler.equal(1), SHAPE)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_code_in_one_file_computes_the_same(name, site):
    net = network(name, classes=5)
    kind = type(net)
    source = bundled([kind.__module__], "A network.")
    modules = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert "tractbench" not in "".join(map(ast.unparse, modules))
    (site / f"copied_{name}.py").write_text(source, encoding="utf-8")
    copied = getattr(importlib.import_module(f"copied_{name}"), kind.__name__)
    copy = copied(**{**NETWORKS[name], "classes": 5})
    assert type(copy) is not kind
    copy.load_state_dict(net.state_dict())
    x, level, labels = torch.randn(2, *SHAPE, generator=generator("x")), torch.tensor([0.3, -0.4]), torch.tensor([1, 4])
    assert torch.equal(copy(x, level, labels), net(x, level, labels))


def test_what_is_no_one_file_is_refused(site):
    (site / "one.py").write_text("def same():\n    return 1\n")
    (site / "other.py").write_text("same = 2\n")
    (site / "renamed.py").write_text("from tractbench.seeds import generator as g\n")
    with pytest.raises(ValueError, match="other and one both define same"):
        bundled(["one", "other"], "Two modules.")
    with pytest.raises(ValueError, match="under another one"):
        bundled(["renamed"], "A module.")
