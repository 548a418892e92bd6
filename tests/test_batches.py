"""Random numbers of training: what they depend on, how they are distributed."""

import math

import pytest
import torch
from scipy import stats

from tractbench.diffusion.processes import VP
from tractbench.method import Phase, group_times
from tractbench.seeds import generator
from tractbench.training.batches import BLOCK, Batches, draw_blocks

SHAPE = (3, 4, 5)


def draws(seed=1, step=2, blocks=range(3), flips=True, images=1000):
    return draw_blocks(seed, step, blocks, images=images, shape=SHAPE, flips=flips)


def parts(drawn):
    return {name: value for name, value in vars(drawn).items() if value is not None}


def assert_same(found, expected):
    assert parts(found).keys() == parts(expected).keys()
    for name, value in parts(expected).items():
        assert torch.equal(parts(found)[name], value), name


def batches(size, flips=True, labels=None, seed=1):
    images = torch.arange(200 * 60, dtype=torch.float32).reshape(200, *SHAPE)
    return Batches(seed, size, images, lambda x: x / 1000, labels, flips, "cpu")


def test_a_block_is_what_its_own_generator_draws():
    drawn = draws(blocks=range(5, 6))
    random = generator("train", 1, 2, 5)
    assert torch.equal(drawn.index, torch.randint(1000, (BLOCK,), generator=random))
    assert torch.equal(drawn.u, torch.rand((BLOCK, 2), dtype=torch.float64, generator=random))
    assert torch.equal(drawn.noise, torch.randn((BLOCK, *SHAPE), generator=random))
    assert torch.equal(drawn.mirrored, torch.rand(BLOCK, generator=random) < 0.5)


def test_blocks_drawn_by_many_are_those_drawn_by_one():
    whole = draws(blocks=range(6))
    for ranks in (2, 3, 6):
        each = 6 // ranks
        shares = [parts(draws(blocks=range(each * r, each * (r + 1)))) for r in range(ranks)]
        for name, value in parts(whole).items():
            assert torch.equal(torch.cat([share[name] for share in shares]), value)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 100])
def test_an_example_does_not_depend_on_the_batch_size(size):
    assert_same(batches(size).draw(7), batches(256).draw(7).first(size))


def test_a_process_draws_only_its_blocks_the_last_one_cut():
    sets = batches(100)
    assert sets.blocks == range(4)
    whole = sets.draw(3)
    assert len(whole.index) == 100
    shares = [sets.draw(3, blocks) for blocks in (range(0, 2), range(2, 4))]
    assert [len(share.index) for share in shares] == [64, 36]
    for name, value in parts(whole).items():
        assert torch.equal(torch.cat([parts(share)[name] for share in shares]), value)


def test_seed_step_and_block_each_change_all_numbers():
    plain = parts(draws(blocks=range(1)))
    for other in (draws(seed=5, blocks=range(1)), draws(step=5, blocks=range(1)), draws(blocks=range(5, 6))):
        assert all(not torch.equal(value, parts(other)[name]) for name, value in plain.items())


def test_flips_change_no_other_number():
    with_flips, without = parts(draws()), parts(draws(flips=False))
    assert set(with_flips) - set(without) == {"mirrored"}
    assert all(torch.equal(value, with_flips[name]) for name, value in without.items())


def test_the_distributions():
    count = 400 * BLOCK
    drawn = draws(blocks=range(400), images=10)
    # five standard deviations of each mean, and Kolmogorov-Smirnov on 1e-4: fixed numbers, so never a matter of luck
    assert torch.bincount(drawn.index, minlength=10).tolist() == pytest.approx(
        [count / 10] * 10, abs=5 * math.sqrt(count * 0.09)
    )
    assert float(drawn.mirrored.double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(count))
    for column in drawn.u.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-4
    assert bool(((drawn.u >= 0) & (drawn.u < 1)).all())
    noise = drawn.noise.double().flatten()
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-4
    assert float(noise.square().mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / len(noise)))
    # examples, and neighbours in an image, are uncorrelated
    rows = drawn.noise.double().flatten(1)
    for product in (rows[1:] * rows[:-1], rows[:, 1:] * rows[:, :-1]):
        assert abs(float(product.mean())) < 5 / math.sqrt(product.numel())


def test_a_batch_is_the_forward_process_of_decoded_images():
    sets = batches(50, labels=torch.arange(200))
    drawn = sets.draw(4)
    batch = sets.noisy(sets.examples(drawn), VP(), lambda u: group_times(u, Phase(8, 2)))
    plain = sets.images[drawn.index] / 1000
    mirrored = drawn.mirrored[:, None, None, None]
    assert torch.equal(batch.x0, torch.where(mirrored, plain.flip(-1), plain))
    assert torch.equal(batch.labels, drawn.index)
    assert torch.equal(batch.noise, drawn.noise)
    times = group_times(drawn.u, Phase(8, 2))
    assert torch.equal(batch.times.t, times.t)
    alpha, sigma = (scale(times.t)[:, None, None, None] for scale in (VP().alpha, VP().sigma))
    torch.testing.assert_close(batch.x_t, alpha * batch.x0 + sigma * batch.noise, rtol=0, atol=1e-12)


def test_only_drawn_images_are_decoded_once():
    decoded = []
    images = torch.zeros((1000, *SHAPE), dtype=torch.uint8)
    sets = Batches(0, 40, images, lambda x: decoded.append(len(x)) or x.float(), None, False, "cpu")
    sets.noisy(sets.examples(sets.draw(0)), VP(), lambda u: group_times(u, Phase(8, 2)))
    assert decoded == [40]
