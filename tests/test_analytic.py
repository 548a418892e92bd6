import json
import math
from pathlib import Path

import pytest
import torch

import tractbench.training.distillation as engine
from tractbench.config.fields import RunConfig
from tractbench.config.resolve import resolve
from tractbench.datasets.formats.mixture import Mixture
from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.denoiser import CountingDenoiser, X0Denoiser, on_device
from tractbench.diffusion.processes import VE, VP
from tractbench.errors import ConfigError
from tractbench.evaluation.exact_scorer import ExactScorer
from tractbench.evaluation.protocols import load_protocol
from tractbench.method import Phase
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.registry import load_dataset
from tractbench.seeds import generator
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation

PROCESSES = [VP(), VE()]
TIMES = [0.05, 0.3, 0.5, 0.8, 1.0]
DIMENSIONS = [1, 3, 16]


pytestmark = pytest.mark.usefixtures("one_thread")


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scales(process, u):
    return float(process.alpha(column(u))), float(process.sigma(column(u)))


# the exact denoiser

WEIGHTS, MEANS, VARIANCES = column(0.2, 0.5, 0.3), column(-1.0, 0.4, 1.5), column(0.09, 0.01, 0.25)


def integrated_mean(x_t, alpha, sigma):
    """E[x0 | x_t] in one dimension, by summing the posterior over a fine grid."""
    x0 = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    prior = torch.stack([w * torch.exp(-((x0 - m) ** 2) / (2 * v)) / v.sqrt()
                         for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True)]).sum(0)  # fmt: skip
    log = prior.log() - (x_t[:, None] - alpha * x0) ** 2 / (2 * sigma**2)
    posterior = torch.exp(log - log.amax(1, keepdim=True))
    return (posterior * x0).sum(1) / posterior.sum(1)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
@pytest.mark.parametrize("u", TIMES)
def test_mixture_denoiser_is_the_posterior_mean(process, u):
    alpha, sigma = scales(process, u)
    # states between and beyond the modes
    x = math.hypot(1.5 * alpha, sigma) * torch.linspace(-2, 2, 41, dtype=torch.float64)
    denoiser = MixtureDenoiser(process, WEIGHTS, MEANS[:, None], VARIANCES[:, None, None])
    found = denoiser(x.reshape(-1, 1, 1, 1), column(u).expand(41)).flatten()
    torch.testing.assert_close(found, integrated_mean(x, alpha, sigma), rtol=0, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_one_gaussians_denoiser_weighs_prior_and_observation_by_precision(process, dimensions):
    data = load_dataset(f"gaussian:{dimensions}")
    denoiser = data.exact_denoiser(process)
    precision = torch.linalg.inv(data.covariances[0])
    for u in TIMES:
        alpha, sigma = scales(process, u)
        x = math.hypot(alpha, sigma) * normal(4, dimensions)
        total = precision + (alpha / sigma) ** 2 * torch.eye(dimensions, dtype=torch.float64)
        evidence = (precision @ data.means[0])[:, None] + alpha / sigma**2 * x.T
        expected = torch.linalg.solve(total, evidence).T
        found = denoiser(x[:, :, None, None], column(u).expand(4)).flatten(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def noised(data, alpha, sigma):
    """The mixture that x_t has: scaled modes, each widened by the noise."""
    marginal = Mixture()
    marginal.weights, marginal.means = data.weights, alpha * data.means
    marginal.covariances = alpha**2 * data.covariances + sigma**2 * torch.eye(data.means.shape[1], dtype=torch.float64)
    return marginal


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
@pytest.mark.parametrize("u", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", ["mixture2d", "gaussian:3"])
def test_denoiser_and_score_obey_tweedies_formula(process, u, name):
    data = load_dataset(name)
    alpha, sigma = scales(process, u)
    x = alpha * data.held_out[:20].flatten(1).double() + sigma * normal(20, data.shape[0])
    density, gap = noised(data, alpha, sigma).density, 1e-4 * math.hypot(alpha * 0.05, sigma)
    score = torch.stack(
        [(density(x + gap * e).log() - density(x - gap * e).log()) / (2 * gap)
         for e in torch.eye(data.shape[0], dtype=torch.float64)], 1
    )  # fmt: skip
    expected = (x + sigma**2 * score) / alpha  # alpha E[x0 | x] = x + sigma^2 grad log p(x)
    found = data.exact_denoiser(process)(x[:, :, None, None], column(u).expand(20)).flatten(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_each_class_of_a_conditional_mixture_is_denoised_as_its_own_gaussian(process):
    data = load_dataset("mixture2d:conditional")
    x, t = normal(24, 2, 1, 1), column(0.4).expand(24)
    labels = torch.arange(24) % data.classes
    found = data.exact_denoiser(process)(x, t, labels)
    for k in range(data.classes):
        alone = MixtureDenoiser(process, torch.ones(1), data.means[k : k + 1], data.covariances[k : k + 1])
        mine = labels == k
        torch.testing.assert_close(found[mine], alone(x[mine], t[mine]), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="needs labels"):
        data.exact_denoiser(process)(x, t)


def test_the_classes_of_a_conditional_mixture_are_the_modes_of_its_points():
    data = load_dataset("mixture2d:conditional")
    centred = data.train.flatten(1).double() - data.means[data.train_labels]
    assert float(centred.norm(dim=1).max()) < 0.06 * 6  # of 65,536 points of deviation 0.06 none is 6 away
    assert load_dataset("mixture2d").train_labels is None
    with pytest.raises(ConfigError, match="there is mixture2d and mixture2d:conditional"):
        load_dataset("mixture2d:classes")


def test_denoisers_are_moved_whatever_they_are():
    exact = load_dataset("gaussian:3").exact_denoiser(VP())
    on_meta = on_device(exact, "meta")
    assert {t.device.type for t in vars(on_meta).values() if isinstance(t, torch.Tensor)} == {"meta"}
    assert {t.device.type for t in vars(exact).values() if isinstance(t, torch.Tensor)} == {"cpu"}
    network = X0Denoiser(torch.nn.Linear(1, 1), VP())
    assert next(on_device(network, "meta").parameters()).device.type == "meta"
    assert on_device(scales, "meta") is scales  # a function holds no tensors


# the data sets


def moments(data):
    mean = (data.weights[:, None] * data.means).sum(0)
    second = data.covariances + data.means[:, :, None] * data.means[:, None]
    return mean, (data.weights[:, None, None] * second).sum(0) - mean[:, None] * mean


@pytest.mark.parametrize("name", ["mixture2d", "gaussian", *(f"gaussian:{d}" for d in DIMENSIONS)])
def test_drawn_points_have_the_mixtures_moments(name):
    data = load_dataset(name)
    points = data.train.flatten(1).double()
    assert points.shape == (65536, *data.shape[:1])
    mean, covariance = moments(data)
    # five standard errors; the entries of a covariance have at most sqrt(2) s_i s_j / sqrt(N), modes apart less
    spread = covariance.diagonal().sqrt()
    assert bool(((points.mean(0) - mean).abs() < 5 * spread / 256).all())
    assert bool(((points.T.cov() - covariance).reshape(covariance.shape).abs()
                 < 5 * math.sqrt(2) * spread[:, None] * spread / 256).all())  # fmt: skip


def test_drawn_points_are_told_apart_by_name():
    data = load_dataset("mixture2d")
    assert torch.equal(data.draw(50, "a", 1), data.draw(50, "a", 1))
    assert not torch.equal(data.draw(50, "a", 1), data.draw(50, "a", 2))
    assert not torch.equal(data.train[:50], data.held_out[:50])


@pytest.mark.parametrize(("name", "reach", "points"), [("mixture2d", 1.2, 400), ("gaussian:1", 5.0, 2000)])
def test_density_integrates_to_one(name, reach, points):
    data = load_dataset(name)
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * data.shape[0]).reshape(-1, data.shape[0])
    cell = float(axis[1] - axis[0]) ** data.shape[0]
    assert float(data.density(grid).sum()) * cell == pytest.approx(1, abs=1e-9)


def test_density_of_one_gaussian_at_its_mean():
    data = load_dataset("gaussian:3")
    volume = float(torch.linalg.det(data.covariances[0])) ** 0.5
    assert float(data.density(data.means)) == pytest.approx((2 * math.pi) ** -1.5 / volume, rel=1e-10)


def test_modes_lie_evenly_on_a_circle():
    means = load_dataset("mixture2d").means
    side = 2 * 0.7 * math.sin(math.pi / 8)
    torch.testing.assert_close(means.norm(dim=1), torch.full((8,), 0.7, dtype=torch.float64))
    torch.testing.assert_close((means - means.roll(1, 0)).norm(dim=1), torch.full((8,), side, dtype=torch.float64))


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_gaussians_have_the_asked_dimension_and_the_stated_variances(dimensions):
    data = load_dataset(f"gaussian:{dimensions}")
    assert data.shape == (dimensions, 1, 1)
    values = torch.linalg.eigvalsh(data.covariances[0])
    assert float(values.min()) > 0.0099
    assert float(values.max()) < 0.502
    again = load_dataset(f"gaussian:{dimensions}")
    assert torch.equal(again.covariances, data.covariances)
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("argument", ["0", "-1", "x", "1.5", "", "99999"])
def test_impossible_dimensions_are_refused(argument):
    with pytest.raises(ConfigError):
        load_dataset(f"gaussian:{argument}")


# scores against the truth


@pytest.mark.parametrize("name", ["mixture2d", "gaussian:1", "gaussian:3", "gaussian:16"])
def test_exact_samples_are_at_almost_no_distance(name):
    data = load_dataset(name)
    trace = float(moments(data)[1].trace())
    # the mean's own error is trace / N, the covariance's at most dimensions * trace / N
    bound = 5 * (1 + data.shape[0]) * trace / len(data.held_out)
    assert 0 <= ExactScorer(data, load_protocol("exact"), 5000).floors["fd_exact"] < bound


@pytest.mark.parametrize("name", ["mixture2d", "gaussian:1", "gaussian:16"])
def test_a_shift_adds_its_square_to_the_frechet_distance(name):
    data = load_dataset(name)
    scorer = ExactScorer(data, load_protocol("exact"), 5000)
    points = data.draw(2000, "shift").double()
    shift = normal(*data.shape)
    off = (points.mean(0) - moments(data)[0][:, None, None]).flatten()  # |m + s|^2 = |m|^2 + |s|^2 + 2 m s
    expected = scorer.score([points])["fd_exact"] + float(shift.square().sum() + 2 * off @ shift.flatten())
    found = scorer.score([part + shift for part in points.split(300)])["fd_exact"]
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("name", ["mixture2d", "gaussian:1", "gaussian:3"])
def test_sliced_distance_of_a_shift_is_its_mean_projection(name):
    data = load_dataset(name)
    scorer = ExactScorer(data, load_protocol("exact"), 5000)
    fresh = data.draw(500, "fresh").double()
    assert scorer.score([fresh])["sliced_w2"] == 0.0
    # directions have length one, so the squares for orthogonal shifts of length a add up to a^2
    shifts = 0.3 * torch.eye(data.shape[0], dtype=torch.float64)[:, :, None, None]
    squares = [scorer.score([fresh + shift])["sliced_w2"] ** 2 for shift in shifts]
    assert sum(squares) == pytest.approx(0.09, rel=1e-9)


# a repeated entry moves the student into another network

ID = "cd" * 32
SIZES = {"teacher": 8, "small": 4}


def network(name):
    arguments = {"channels": 1, "size": 2, "width": SIZES[name], "blocks": 1, "embedding": 4}
    return X0Denoiser(build_network("mlp", arguments, generator("tests", name)), VP()).requires_grad_(False).eval()


def moving_distillation(**changes):
    settings = {
        "method": "tract", "dataset": "digits", "tier": "smoke", "teacher": "digits-vp", "grid_steps": 1024,
        "schedule": (8, 4, 4, 1), "budget": 36, "batch": 4, "lr": 1e-2, "student": "small",
    }  # fmt: skip
    config = RunConfig.model_validate(settings | changes)
    images = 2 * torch.rand((16, 1, 2, 2), generator=generator("tests", "images")) - 1
    return Distillation(config, TRACT(), VP(), network("teacher"), images, new_network=network)


def sizes(run):
    return run.teacher.net.input.out_features, run.student.net.input.out_features


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_student_changes_its_network_at_the_repeated_entry():
    seen, averages = [], {}
    run = moving_distillation()
    while run.step < run.total:
        averages[run.step] = weights(run.averaged())
        run.train_step()
        seen.append(sizes(run))
    # old to old, old to new, new to new; three steps in each of the three phases
    assert seen == [(8, 8)] * 3 + [(8, 4)] * 3 + [(4, 4)] * 3
    assert_same_weights(weights(run.teacher), averages[6])


def test_the_new_network_starts_from_its_own_weights_and_learns_from_the_last_average():
    starts = []

    class Watching(TRACT):
        def target(self, batch, phase, progress, nets):
            starts.append((phase, nets.teacher(batch.x_t, batch.times.t), nets.frozen(batch.x_t, batch.times.t), batch))
            return super().target(batch, phase, progress, nets)

    run = moving_distillation()
    run.method = Watching()
    for _ in range(3):
        run.train_step()
    average = run.averaged()
    run.train_step()
    phase, teacher, student, batch = starts[3]
    assert phase == Phase(4, 4)
    assert torch.equal(teacher, average(batch.x_t, batch.times.t))
    assert torch.equal(student, network("small")(batch.x_t, batch.times.t))
    assert {int(state["step"]) for state in run.optimiser.state.values()} == {1}  # a fresh Adam


@pytest.mark.parametrize("phase_start", ["continue", "from_teacher"])
def test_a_resumed_move_gives_the_same_bits_from_any_step(tmp_path, monkeypatch, phase_start):
    monkeypatch.setattr(engine, "LOG_EVERY", 2)
    run, saved = moving_distillation(phase_start=phase_start), {}
    for step in range(run.total):
        saved[step] = Checkpoints(tmp_path / str(step), ID)
        saved[step].save(run.state())
        run.train_step()
    for step in range(run.total):
        resumed = moving_distillation(phase_start=phase_start)
        resumed.restore(saved[step].newest())
        while resumed.step < resumed.total:
            resumed.train_step()
        assert_same_weights(weights(resumed.averaged()), weights(run.averaged()))
        assert resumed.losses == run.losses


def test_an_exact_teacher_needs_a_network_to_move_into():
    config, exact = moving_distillation().config, CountingDenoiser(network("teacher"))
    with pytest.raises(TypeError, match="first phase that repeats its steps"):
        Distillation(config, TRACT(), VP(), exact, torch.zeros(4, 1, 2, 2))


# whole runs

METHODS = {"tract": [(1, 8, 8), (2, 8, 4), (3, 4, 1)], "btd": [(1, 4, 4), (2, 4, 2), (3, 2, 1)]}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_exact_data_records_an_error_for_each_phase(tractbench, method):
    phases = METHODS[method]
    schedule = ",".join(map(str, [phases[0][1], *(end for *_, end in phases)]))
    run = tractbench("run", "--method", method, "--dataset", "gaussian:2", "--tier", "smoke", "--schedule", schedule,
                     "--budget", 6144, "--json", "--quiet").json  # fmt: skip
    folder = Path(run["run_dir"])
    errors = json.loads((folder / "record.json").read_text())["distillation_errors"]
    assert [(e["phase"], e["start"], e["end"]) for e in errors] == phases
    assert all(math.isfinite(e["error"]) and e["error"] > 0 for e in errors)


def test_a_student_of_an_exact_teacher_first_moves_into_a_network(tractbench):
    assert resolve({"method": "tract", "dataset": "mixture2d"})[0].schedule == (1024, 1024, 32, 1)
    run = tractbench("run", "--method", "tract", "--dataset", "mixture2d", "--tier", "smoke",
                     "--schedule", "64,64,16,1", "--json", "--quiet").json  # fmt: skip
    folder = Path(run["run_dir"])
    record = json.loads((folder / "record.json").read_text())
    assert run["schedule"] == [64, 64, 16, 1]
    errors = record["distillation_errors"]
    assert [(e["phase"], e["start"], e["end"]) for e in errors] == [(1, 64, 64), (2, 64, 16), (3, 16, 1)]
    assert set(run["metrics"]) == {"fd_exact", "sliced_w2"}
    assert run["nfe_spent"] == 1
    assert (folder / "samples.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
