import pytest
import torch

from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VP, load_process
from tractbench.diffusion.sampler import Sampler
from tractbench.evaluation.sampling import prior_noise, sample
from tractbench.nets.build import build_network
from tractbench.progress import Task
from tractbench.registry import load_dataset
from tractbench.seeds import derive_seed, generator
from tractbench.teachers.load import load_teacher

SHAPE = (1, 8, 8)
COUNT, CHUNK, STEPS = 30, 8, 3


@pytest.fixture(scope="module")
def teacher():
    return load_teacher("digits-vp", load_dataset("digits"), load_process("vp", 1024))


@pytest.fixture(scope="module")
def images(teacher):
    return drawn(teacher)


def drawn(teacher, *, seed=0, count=COUNT, chunk=CHUNK, **options):
    parts = sample(teacher.denoiser, teacher.process, SHAPE, seed, count, Sampler.equal(STEPS), chunk=chunk, **options)
    return torch.cat(list(parts))


@pytest.mark.parametrize("batch", [1, 7, 8, 9, 5000])
def test_the_batch_never_changes_a_bit(teacher, images, batch):
    assert torch.equal(drawn(teacher, batch=batch), images)


@pytest.mark.parametrize(("batch", "sizes"), [(None, [8, 8, 8, 6]), (1, [8, 8, 8, 6]), (9, [16, 14]), (5000, [30])])
def test_batches_are_whole_chunks_in_order(teacher, batch, sizes):
    parts = sample(teacher.denoiser, teacher.process, SHAPE, 0, COUNT, Sampler.equal(STEPS), chunk=CHUNK, batch=batch)
    assert [len(part) for part in parts] == sizes


@pytest.mark.parametrize("count", [1, 7, 8, 17])
def test_an_image_does_not_depend_on_how_many_follow(teacher, images, count):
    assert torch.equal(drawn(teacher, count=count), images[:count])


def test_repeated_sampling_gives_the_same_bits(teacher, images):
    assert torch.equal(drawn(teacher), images)


def test_other_seeds_give_other_images(teacher, images):
    other = drawn(teacher, seed=1)
    assert not any(torch.equal(a, b) for a in images for b in other)


@pytest.mark.parametrize("chunk", [1, 5, 30])
def test_chunks_change_only_the_rounding(teacher, images, chunk):
    # float32 networks round by batch size: one part in 1e7 a layer, far less than an image's difference to another
    torch.testing.assert_close(drawn(teacher, chunk=chunk), images, rtol=0, atol=1e-3)


def test_an_image_has_its_noise_alone_or_among_others():
    process = VP()
    together = prior_noise(process, SHAPE, 5, range(20))
    for index in (0, 3, 19):
        assert torch.equal(prior_noise(process, SHAPE, 5, range(index, index + 1))[0], together[index])


def test_noise_has_the_moments_and_the_independence_of_the_prior():
    count = 2000
    noise = prior_noise(VP(), (1, 2, 2), 0, range(count)).double().flatten(1)
    other = prior_noise(VP(), (1, 2, 2), 1, range(count)).double().flatten(1)
    bound = 5 / count**0.5
    assert float(noise.mean(0).abs().max()) < bound
    correlations = torch.cat([noise, other], 1).T @ torch.cat([noise, other], 1) / count
    assert float((correlations - torch.eye(8)).abs().max()) < 1.5 * bound
    assert float((noise[1:] * noise[:-1]).mean(0).abs().max()) < bound


def test_noise_has_the_standard_deviation_of_the_process():
    wide = load_process("ve")
    assert wide.prior_std == 80
    assert torch.equal(prior_noise(wide, SHAPE, 0, range(3)), 80 * prior_noise(VP(), SHAPE, 0, range(3)))


def test_the_network_always_runs_on_whole_chunks():
    calls = []

    def denoiser(x, t, labels=None):
        calls.append(len(x))
        return x

    list(sample(denoiser, VP(), SHAPE, 0, COUNT, Sampler.equal(STEPS), chunk=CHUNK))
    assert calls == [CHUNK] * (4 * STEPS)


def test_every_image_is_reported_once(teacher):
    class Counter(Task):
        done = 0

        def advance(self, amount=1, note=""):
            self.done += amount

    counter = Counter()
    drawn(teacher, task=counter)
    assert counter.done == COUNT


def test_sampling_records_no_gradient():
    arguments = {"channels": 1, "size": 8, "width": 8, "blocks": 1, "embedding": 4}
    network = build_network("mlp", arguments, generator("test"))
    assert all(parameter.requires_grad for parameter in network.parameters())
    parts = list(sample(X0Denoiser(network, VP()), VP(), SHAPE, 0, 3, Sampler.equal(2), chunk=2))
    assert not any(part.requires_grad for part in parts)
    assert all(part.dtype == torch.float64 for part in parts)


def test_clipping_bounds_the_images(teacher, images):
    # the last state is alpha x0 + 4.5e-5 eps
    assert float(images.abs().max()) < 1 + 1e-3
    assert not torch.equal(drawn(teacher, clip=False), images)


def test_seeds_depend_on_every_name_and_its_type():
    seeds = [
        derive_seed(*n)
        for n in (("a", 1), ("a", "1"), ("a1",), (1, "a"), ("a", 1, 0), ("a", 2), ("a", 12), ("a", 1, 2))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
