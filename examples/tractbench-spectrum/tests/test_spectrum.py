"""Power is found at the frequency where it is, and nothing of it is lost."""

import math

import torch

from tractbench.registry import load_dataset
from tractbench.seeds import generator
from tractbench_spectrum.extractor import Spectrum, frequencies, ring_power


def test_a_waves_power_is_in_the_ring_of_its_frequency():
    place = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    for down, right in ((0, 0), (1, 0), (0, 2), (3, 2)):
        wave = torch.cos(down * place[:, None] + right * place[None, :])
        power = ring_power(wave[None, None])[0, 0]
        ring = round(math.hypot(down, right))
        assert float(power[ring]) > 1
        assert float(power.sum() - power[ring]) < 1e-12


def test_all_power_is_counted():  # Parseval
    images = torch.randn((3, 2, 8, 6), dtype=torch.float64, generator=generator("spectrum"))
    counts = torch.bincount(frequencies(8, 6).flatten()).double()
    torch.testing.assert_close(ring_power(images) @ counts, images.square().sum((2, 3)))


def test_features_are_finite_for_images_of_one_grey():
    digits = load_dataset("digits")
    features = Spectrum(digits)(torch.zeros((2, 1, 8, 8), dtype=torch.uint8))
    assert bool(features.isfinite().all())
