"""What cannot be true about samples and scores is said, and of real images nothing is."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from tractbench.datasets.cifar10 import CIFAR10
from tractbench.evaluation.doubts import Doubts
from tractbench.registry import load_dataset

FINE = {"fid": (3.2,), "kid": (0.0,)}


@pytest.fixture(scope="module")
def photographs():
    """Tiles of two photographs, reduced so that no trace of their own JPEG is left: [600, 3, 32, 32]."""
    random, tiles = np.random.default_rng(0), []
    for photo in load_sample_images().images:
        for factor in (2, 3, 4):
            image = Image.fromarray(photo)
            small = np.asarray(image.resize((image.width // factor, image.height // factor), Image.Resampling.LANCZOS))
            for _ in range(100):
                y, x = random.integers(0, small.shape[0] - 32), random.integers(0, small.shape[1] - 32)
                tiles.append(small[y : y + 32, x : x + 32])
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).contiguous()


def said(images, scores=FINE, dataset=None):
    doubts = Doubts(dataset or CIFAR10())
    for batch in images.split(77):
        doubts.look(batch)
    return doubts.found(scores)


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def test_nothing_is_said_of_photographs(photographs):
    assert said(photographs) == ()


def test_a_distance_that_is_too_small(photographs):
    (line,) = said(photographs, {"fid": (2.0, 4e-5)})
    assert "fid 4e-05" in line
    assert said(photographs, {"fd_exact": (4e-5,)}) == ()


def test_images_that_were_stretched_one_by_one(photographs):
    floats = photographs.double()
    low, high = floats.amin((1, 2, 3), keepdim=True), floats.amax((1, 2, 3), keepdim=True)
    (line,) = said((255 * (floats - low) / (high - low)).round().to(torch.uint8))
    assert "span exactly 0 to 255" in line


def test_repeated_images(photographs):
    (line,) = said(torch.cat([photographs, photographs[:350]]))
    assert line == "only 598 of 950 images are different"  # two of the tiles are of the same place
    assert said(torch.cat([photographs, photographs[:100]])) == ()


def test_grey_images_in_a_set_of_colours(photographs):
    (line,) = said(photographs[:, :1].expand(-1, 3, -1, -1))
    assert "600 of 600 images are grey" in line


@pytest.mark.parametrize("quality", [50, 75])
def test_images_that_were_jpeg(photographs, quality):
    (line,) = said(torch.stack([jpeg(image, quality) for image in photographs]))
    assert "JPEG's blocks" in line


def test_nothing_is_said_of_real_digits_nor_of_points():
    digits, plane = load_dataset("digits"), load_dataset("mixture2d")
    assert said(digits.held_out, {"fd_pixel": (0.4,)}, digits) == ()
    assert said(plane.held_out, {"fd_exact": (1e-6,)}, plane) == ()


def test_doubts_stand_in_the_manifest_and_beside_the_scores(tractbench, tmp_path):
    digits = load_dataset("digits")
    np.save(tmp_path / "a.npy", digits.held_out[:10].repeat(3, 1, 1, 1).numpy())
    options = ("evaluate", tmp_path / "a.npy", "--dataset", "digits", "--allow-deviation")
    assert "DOUBTFUL: only 10 of 30 images are different" in tractbench(*options).out
    (found,) = tractbench(*options, "--json").json["evaluations"]
    assert found["manifest"]["doubts"] == ["only 10 of 30 images are different"]
