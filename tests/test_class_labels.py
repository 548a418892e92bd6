"""Class labels in targets, distillations and samples."""

import math
from typing import ClassVar

import pytest
import torch
from targets_data import METHODS, PROCESSES, batch_at, every_time, unused

from tractbench.config.fields import RunConfig
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VE, VP
from tractbench.diffusion.sampler import Sampler
from tractbench.evaluation.sampling import prior_labels, sample
from tractbench.method import Nets, Phase
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench.training.distillation import Distillation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case", METHODS)
def test_every_network_is_given_the_labels(case):
    method, name, _ = METHODS[case]
    phase = Phase(4, 2)
    asked = {"teacher": [], "self_teacher": []}

    def recorder(role):
        return lambda x, t, labels: asked[role].append(labels) or torch.zeros_like(x)

    times = every_time(method, phase)
    labels = torch.arange(len(times.t))
    batch = batch_at(times, PROCESSES[name](4), labels=labels)
    method.target(batch, phase, 0.0, Nets(recorder("teacher"), recorder("self_teacher"), unused))
    teacher_calls = {"btd": 2, "tract": 1, "tract_edm euler": 1, "tract_edm": 2}[case]
    assert (len(asked["teacher"]), len(asked["self_teacher"])) == (teacher_calls, int(method.self_teacher))
    assert all(given is labels for calls in asked.values() for given in calls)


class Watched(X0Denoiser):
    seen: ClassVar[list] = []

    def forward(self, x_t, t, labels=None):
        Watched.seen.append((self.training, labels))
        return super().forward(x_t, t, labels)


CLASSES = 5


def conditional_distillation():
    arguments = {"channels": 1, "size": 2, "width": 8, "blocks": 1, "embedding": 4, "classes": CLASSES}
    teacher = Watched(build_network("mlp", arguments, generator("tests", "conditional")), VP())
    teacher.requires_grad_(False).eval()
    labels = torch.arange(20) % (CLASSES - 1)  # no image of the last class
    images = (labels / 10)[:, None, None, None].expand(20, 1, 2, 2)  # the class can be read off an image
    config = RunConfig(
        method="tract", dataset="digits", tier="smoke", teacher="t", grid_steps=1024, schedule=(8, 4, 1), batch=6,
        budget=60, lr=1e-2,
    )  # fmt: skip
    return Distillation(config, TRACT(), VP(), teacher, images, labels=labels)


def test_a_class_conditional_distillation_gives_each_network_the_images_classes():
    run = conditional_distillation()
    before = run.student.get_submodule("net.label").weight.detach().clone()
    drawn = []
    for _ in range(run.total):
        batch = run.draw(run.plan.phase, 0.0)
        assert torch.equal(batch.labels, (10 * batch.x0[:, 0, 0, 0]).round().long())
        drawn += batch.labels.tolist()
        Watched.seen.clear()
        run.train_step()
        assert len(Watched.seen) == 3  # teacher, self-teacher, student
        assert [training for training, _ in Watched.seen].count(True) == 1
        assert all(torch.equal(labels, batch.labels) for _, labels in Watched.seen)
    moved = (run.student.get_submodule("net.label").weight != before).any(1).tolist()
    assert moved == [label in drawn for label in range(CLASSES)]
    assert not moved[-1]


def conditional_samples(seed, count, chunk, asked):
    def denoiser(x, t, labels):
        asked.append(labels)
        return (labels.double() - 2).reshape(-1, 1, 1, 1).expand_as(x)

    parts = sample(denoiser, VE(), (1, 2, 2), seed, count, Sampler.equal(2), chunk=chunk, classes=CLASSES, clip=False)
    return torch.cat(list(parts))


def test_a_samples_class_depends_on_seed_and_index_only():
    expected = prior_labels(CLASSES, 7, range(12))
    for chunk in (1, 5, 12):
        asked = []
        images = conditional_samples(7, 12, chunk, asked)
        # each chunk's labels, the same in both steps; sigma ends at 0, so an image is its class
        assert torch.equal(torch.cat(asked[::2])[:12], expected)
        assert torch.equal(torch.cat(asked[1::2])[:12], expected)
        assert torch.equal(images, (expected.double() - 2).reshape(-1, 1, 1, 1).expand(12, 1, 2, 2))
    assert torch.equal(prior_labels(CLASSES, 7, range(4, 9)), expected[4:9])
    assert not torch.equal(prior_labels(CLASSES, 8, range(12)), expected)


def test_classes_of_samples_are_uniform():
    counts = torch.bincount(prior_labels(CLASSES, 0, range(1000)), minlength=CLASSES)
    assert len(counts) == CLASSES
    # five standard deviations of a binomial count with p = 1/5
    assert counts.tolist() == pytest.approx([200] * CLASSES, abs=5 * math.sqrt(1000 * 0.2 * 0.8))


def test_an_unconditional_sampler_gives_no_labels():
    asked = []
    list(sample(lambda x, t, labels: asked.append(labels) or x, VP(), (1, 1, 1), 0, 2, Sampler.equal(2), chunk=2))
    assert asked == [None, None]
