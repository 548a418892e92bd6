"""What brings photographs to 64 pixels, against other implementations of the same definition."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from data_files import pixels
from PIL import Image
from torchvision.transforms import CenterCrop

from tractbench.datasets.formats.prepared import folder_of
from tractbench.datasets.imagenet64 import ImageNet64, area, crop
from tractbench.errors import ConfigError
from tractbench.progress import Progress
from tractbench.registry import load_dataset


def photo(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mean_over_area(image, row, column, side):
    """The mean over one cell of a 64x64 grid on a square image, pixel by pixel in fractions, rounded half up."""
    cell = Fraction(side, 64)
    total = [Fraction(0)] * 3
    for y in range(int(row * cell), int(np.ceil((row + 1) * cell))):
        for x in range(int(column * cell), int(np.ceil((column + 1) * cell))):
            share = max(0, min((row + 1) * cell, y + 1) - max(row * cell, y)) * max(
                0, min((column + 1) * cell, x + 1) - max(column * cell, x)
            )
            for channel in range(3):
                total[channel] += share * int(image[y, x, channel])
    return [int(value / cell**2 + Fraction(1, 2)) for value in total]


@pytest.mark.parametrize("side", [64, 107, 128, 181, 333, 375, 427, 50])
def test_area_is_the_mean_over_areas(side):
    image = photo(side, side, side)
    found, given = np.asarray(area(image)), np.asarray(image)
    cells = [(0, 0), (63, 63), (0, 63), *np.random.default_rng(1).integers(0, 64, (12, 2)).tolist()]
    for row, column in cells:
        assert found[row, column].tolist() == mean_over_area(given, row, column, side)


def test_area_takes_the_central_square():
    wide = photo(333, 181)
    assert np.array_equal(np.asarray(area(wide)), np.asarray(area(wide.crop((76, 0, 257, 181)))))


@pytest.mark.parametrize("height", [50, 61, 63, 64, 65, 67, 80])
def test_crop_is_torchvisions(height):
    for width in range(58, 76):
        image = photo(width, height)
        assert np.array_equal(np.asarray(crop(image)), np.asarray(CenterCrop(64)(image))), width
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert np.array_equal(np.asarray(crop(image)).transpose(2, 0, 1), CenterCrop(64)(tensor).numpy()), width


@pytest.mark.parametrize("source", ["area", "crop"])
def test_pixels_of_an_earlier_release_are_not_taken_for_these(tmp_path, monkeypatch, source):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "n01").mkdir()
    Image.fromarray(pixels(0, 1, 90)[0].transpose(1, 2, 0)).save(tmp_path / "n01" / "x.png")
    ImageNet64(source).prepare(tmp_path, Progress(), allow_deviation=True)
    name = f"imagenet64:{source}"
    assert len(load_dataset(name).train) == 1
    path = folder_of(name) / "train.json"
    older = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("seal", "made_from")}
    path.write_text(json.dumps(older | {"source": "full-size images: the central square, then area means"}))
    with pytest.raises(ConfigError, match=r"an earlier release made it.*--force"):
        _ = load_dataset(name).fingerprint
