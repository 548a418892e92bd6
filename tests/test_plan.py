"""What a run takes, and what the machine has."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tractbench.config.resolve import resolve
from tractbench.diffusion.denoiser import CountingDenoiser
from tractbench.diffusion.processes import VE
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import ConfigError
from tractbench.nets.build import meta_network
from tractbench.pipeline.devices import devices, parse_machine
from tractbench.pipeline.plan import make_plan
from tractbench.pipeline.stages import Stage
from tractbench.progress import Progress
from tractbench.registry import load_dataset


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


def plan(tmp_path, on=None, **settings):
    config, method, dataset = resolve(settings)
    return config, make_plan(config, method, dataset, tmp_path / "runs", "cpu", Progress(), on=on)


def test_a_run_that_can_start_is_projected_whole(tmp_path):
    config, made = plan(tmp_path, method="tract", dataset="digits")
    assert made.ready
    assert made.parameters == 272_832
    assert {need.name for need in made.needs} == {"data digits", "teacher digits-vp", "memory", "disk"}
    images = {stage.name: stage.images for stage in made.stages}
    assert images == {"teacher in 1024 steps": 512, "training": config.budget, "sampling": 15_000}
    assert all(stage.hours > 0 and stage.basis == "measured" for stage in made.stages)
    ends, sampling = made.stages[0], made.stages[2]
    assert ends.seconds_per_image == pytest.approx(1024 * sampling.seconds_per_image)


def test_what_trains_nothing_has_no_training_stage(tmp_path):
    _, made = plan(tmp_path, method="ddim", dataset="digits", nfe=4)
    assert [stage.name for stage in made.stages] == ["teacher in 1024 steps", "sampling"]


def test_hours_are_images_times_seconds():
    assert Stage("x", "training", 7200, 0, 0.5).hours == 1.0
    assert Stage("x", "training", 7200, 0, 0.5, devices=4).hours == 0.25


@pytest.mark.parametrize(("solver", "steps"), [("ddim", 7), ("heun", 5), ("heun", 1)])
def test_evaluations_are_what_a_solver_counts(solver, steps):
    counter = CountingDenoiser(lambda x, t, labels=None: 0 * x)
    sampler = Sampler.equal(steps, solver)
    sample_ode(counter, VE(steps), torch.ones(1, 1, 2, 2, dtype=torch.float64), sampler)
    assert sampler.evaluations == counter.evaluations


def test_what_is_missing_is_named_with_its_remedy(tractbench, tmp_path):
    done = tractbench("plan", "--method", "tract", "--dataset", "cifar10", "--nfe", 1, "--tier", "smoke", "--json")
    assert done.code == 0, done.err
    assert not done.json["ready"]
    needs = {need["name"]: need for need in done.json["needs"]}
    assert "data prepare cifar10 --download" in needs["data cifar10"]["detail"]
    assert "--tier smoke" in needs["teacher cifar10-vp-smoke"]["detail"]
    assert str(tmp_path / "cache" / "inception") in needs["Inception weights"]["detail"]
    assert [need for need in needs if not needs[need]["present"]] == [
        "data cifar10", "teacher cifar10-vp-smoke", "Inception weights"
    ]  # fmt: skip
    stages = {stage["name"]: stage for stage in done.json["stages"]}
    assert stages["Inception features"]["images"] == 32 + 50_000
    assert done.json["hours"] == pytest.approx(sum(stage["hours"] for stage in stages.values()))
    assert not (tmp_path / "cache").exists()  # a plan writes and fetches nothing


@pytest.mark.parametrize(
    ("method", "dataset"), [("tract_edm", "cifar10"), ("tract_edm", "imagenet64"), ("ddim", "cifar10")]
)
def test_a_teacher_that_is_not_here_is_counted_by_a_network_like_it(tmp_path, method, dataset):
    config, made = plan(tmp_path, on="a100", method=method, dataset=dataset, tier="smoke", protocol="raw")
    preset = load_dataset(dataset).network("tiny-edm" if config.process == "ve" else "tiny", config.process)
    built = meta_network(preset.network, preset.arguments)
    assert made.parameters == sum(p.numel() for p in built.parameters())


def test_a_plan_for_reading(tractbench):
    out = tractbench("plan", "--method", "ddim", "--dataset", "digits", "--quiet").out
    assert "It could start now." in out
    assert "hours on 1 x CPU, " in out
    assert tractbench("plan", "--method", "trakt", "--dataset", "digits").code == 2


def test_the_doctor_has_a_line_for_everything(tractbench, tmp_path):
    findings = {f["name"]: f for f in tractbench("doctor", "--json").json}
    assert {"tractbench", "packages", "processor", "GPUs", "cache", "methods", "data cifar10", "data imagenet64",
            "teachers", "Inception weights", "results"} <= set(findings)  # fmt: skip
    assert not findings["data cifar10"]["good"]
    assert "data prepare cifar10" in findings["data cifar10"]["detail"]
    assert "tract_edm" in findings["methods"]["detail"]
    weights = tmp_path / "cache" / "inception" / "weights-inception-2015-12-05-6726825d.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"not they")
    done = tractbench("doctor")
    assert done.code == 0
    assert "damaged" in next(line for line in done.out.splitlines() if "Inception" in line)
    assert len(done.out.splitlines()) == len(findings)


class RealTensors(TorchDispatchMode):
    """Notes the largest tensor with storage that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self.largest = max(self.largest, tensor.numel())
        return out


def test_a_plan_for_300m_parameters_holds_no_tensor_of_their_size(tmp_path):
    with RealTensors() as seen:
        config, made = plan(tmp_path, on="8xh100", method="tract", dataset="imagenet64")
    assert made.parameters == 295_905_222
    assert seen.largest < 100_000
    hours = {stage.name: stage.hours for stage in made.stages}
    training = next(stage for stage in made.stages if stage.name == "training")
    h100 = devices()["h100"]
    assert hours["training"] == pytest.approx(training.operations / (8 * 67e12 * h100.share) / 3600)
    assert made.device_hours == pytest.approx(8 * made.hours)
    assert made.memory.images == config.batch // 8
    assert made.memory.state == 36 * made.parameters
    changes = {change.name: change for change in made.changes}
    assert set(changes) == {"tf32", "bf16", "compile", "micro-batches of 16"}
    scoring = hours["Inception features"]
    assert changes["bf16"].hours == pytest.approx((made.hours - scoring) * 67 / 989 + scoring)
    assert changes["compile"].hours is None
    assert changes["micro-batches of 16"].memory == made.memory.state + made.memory.activations // 2


def test_machines_are_those_of_the_table():
    assert parse_machine("8xh100") == ("h100", 8)
    assert parse_machine("RTX4090") == ("rtx4090", 1)
    with pytest.raises(ConfigError, match=r"--on h10: no machine of the table; did you mean 'h100'"):
        parse_machine("h10")
    with pytest.raises(ConfigError, match="4xcpu"):
        parse_machine("4xcpu")


def test_every_device_names_its_source_and_says_that_its_share_is_assumed():
    for device in devices().values():
        assert "NVIDIA" in device.source
        assert device.share_source == "an assumption, not measured"
        assert device.peak["fp32"] <= device.peak.get("tf32", 1e9) <= device.peak.get("bf16", 1e9)
    with pytest.raises(ConfigError, match=r"V100.* has no bf16; choose --precision fp32"):
        devices()["v100"].speed("bf16")


def test_another_machine_cannot_be_timed(tractbench):
    done = tractbench("plan", "--method", "ddim", "--dataset", "digits", "--on", "a100", "--measure")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
