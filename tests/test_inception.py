import socket
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from tractbench.errors import ConfigError, DamagedFileError, DownloadError
from tractbench.evaluation.extractors.inception import SHA256, URL, Inception, Weights, choose_weights
from tractbench.evaluation.extractors.resize import RESIZES, SIZE, clean_bicubic, tensorflow_bilinear, torch_bilinear
from tractbench.progress import Progress

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
    from torch_fidelity.utils import create_feature_extractor


class Unloaded(FeatureExtractorInceptionV3):
    def load_state_dict(self, *ignored):
        pass


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with torch-fidelity's keys: random convolutions, batch norms that do something."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    with torch.random.fork_rng():
        network = Unloaded("random", ["2048"], feature_extractor_weights_path=folder / "empty.pth")
    random = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=random)
        elif "running_var" in name or "bn.weight" in name:
            tensor.uniform_(0.5, 1.5, generator=random)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.1, generator=random)
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


@pytest.fixture(scope="module")
def inception(weights):
    return Inception(choose_weights(weights), "cpu", Progress())


def pictures(count=2, size=(32, 32), seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=random)


def by_pil(images, filter):
    """Resize channel by channel in PIL's float mode."""
    rows = [
        [Image.fromarray(c.numpy().astype(np.float32)).resize((SIZE, SIZE), filter) for c in image] for image in images
    ]
    return torch.from_numpy(np.stack([[np.asarray(c) for c in row] for row in rows]))


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (299, 299), (400, 500)])
def test_tensorflow_resize_is_torch_fidelitys(size):
    images = pictures(size=size)
    theirs = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(SIZE, SIZE), align_corners=False)
    assert torch.equal(tensorflow_bilinear(images), (theirs - 128) / 128)


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (299, 299)])
def test_torch_resize_is_bilinear_about_half_pixels(size):
    # PIL's bilinear filter is that when it enlarges
    images = pictures(size=size)
    expected = by_pil(images, Image.Resampling.BILINEAR) / 127.5 - 1
    torch.testing.assert_close(torch_bilinear(images), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (299, 299), (400, 500)])
def test_clean_resize_is_pils_bicubic_in_floats(size):
    images = pictures(size=size)
    expected = (by_pil(images, Image.Resampling.BICUBIC).clamp(0, 255) - 128) / 128
    torch.testing.assert_close(clean_bicubic(images), expected, rtol=0, atol=1e-4)


def test_resizes_differ_and_keep_constants():
    images = pictures()
    results = [resize(images) for resize in RESIZES.values()]
    assert all(float((a - b).abs().mean()) > 0.01 for i, a in enumerate(results) for b in results[:i])
    flat = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    for name, top in (("tensorflow", 127 / 128), ("torch", 1.0), ("clean", 127 / 128)):
        torch.testing.assert_close(RESIZES[name](flat), torch.full((1, 3, SIZE, SIZE), top), rtol=0, atol=1e-5)


def test_features_are_torch_fidelitys(weights, inception):
    extractor = create_feature_extractor(
        "inception-v3-compat", ["2048", "logits_unbiased"], cuda=False, feature_extractor_weights_path=str(weights)
    )
    images = pictures()
    with torch.no_grad():
        pool, logits = extractor(images)
    ours = inception(images, "tensorflow")
    for a, b in ((ours.pool, pool), (ours.logits, logits)):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 1e-5
    assert float((inception(images, "torch").pool - pool).norm() / pool.norm()) > 1e-4


def test_other_weights_than_the_published_ones_are_not_verified(weights):
    assert not choose_weights(weights).verified
    assert choose_weights(None).verified


def test_the_published_weights_are_those_torch_fidelity_fetches():
    assert URL == URL_INCEPTION_V3
    assert URL.endswith(f"-{SHA256[:8]}.pth")  # torch.hub's convention


def test_a_file_in_the_place_of_the_published_weights_is_checked(monkeypatch, tmp_path, weights):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path))
    published = choose_weights(None)
    published.path.parent.mkdir(parents=True)
    published.path.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DamagedFileError, match="delete it"):
        Inception(published, "cpu", Progress())


def test_offline_says_what_to_put_where(monkeypatch, tmp_path):
    def refuse(*arguments, **settings):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path))
    with pytest.raises(DownloadError) as caught:
        Inception(choose_weights(None), "cpu", Progress())
    assert URL in str(caught.value)
    assert f"put it at {tmp_path}" in str(caught.value)


class Trap:
    """Pickles to a call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_weights_file_is_never_executed(tmp_path):
    torch.save({"fc.weight": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(DamagedFileError, match="holds no weights"):
        Inception(choose_weights(tmp_path / "trap.pth"), "cpu", Progress())
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [{"fc.weight": torch.zeros(3)}, torch.zeros(3), {"x": 1}])
def test_a_file_of_something_else_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(DamagedFileError) as caught:
        Inception(choose_weights(tmp_path / "other.pth"), "cpu", Progress())
    assert "\n" not in str(caught.value)
    assert URL in str(caught.value)


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="leave --weights out"):
        choose_weights(tmp_path / "missing.pth")


def test_the_global_generator_is_left_alone(weights):
    before = torch.get_rng_state()
    Inception(Weights(weights, "0"), "cpu", Progress())
    assert torch.equal(torch.get_rng_state(), before)
