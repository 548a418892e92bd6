"""DINOv2 and CLIP as feature spaces: files as published, images as Stein et al. make them, networks of the papers."""

import hashlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import gelu, interpolate, layer_norm, linear, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

from tractbench.checks import check
from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError, DamagedFileError, DownloadError
from tractbench.evaluation.extractors.base import load_extractor
from tractbench.evaluation.extractors.clip import CLIP
from tractbench.evaluation.extractors.dinov2 import DINOv2, resampled
from tractbench.evaluation.extractors.vision_transformer import SIZE, normalised, published
from tractbench.progress import Progress
from tractbench.registry import load_dataset

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.xdist_group("transformers")]
WIDTH, LAYERS, HEADS, PATCH, PROJECTION, GRID = 16, 2, 2, 14, 8, 37


class Photographs(Dataset):
    name = "photographs"
    shape = (3, 32, 32)


def pictures(count=2, size=(32, 32), seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=random)


class Names(dict):
    """Makes random tensors as they are asked for by name."""

    def __init__(self):
        super().__init__()
        self.random = torch.Generator().manual_seed(0)

    def make(self, name, *shape, scale=0.3):
        self[name] = scale * torch.randn(shape, generator=self.random)

    def linear(self, name, out, width, bias=True):
        self.make(f"{name}.weight", out, width)
        if bias:
            self.make(f"{name}.bias", out)

    def norm(self, name):
        self.make(f"{name}.weight", WIDTH)
        self[f"{name}.weight"] += 1
        self.make(f"{name}.bias", WIDTH)


def dinov2_file():
    """Tensors by the names that facebook/dinov2-large has, small ones."""
    made = Names()
    made.make("embeddings.cls_token", 1, 1, WIDTH)
    made.make("embeddings.mask_token", 1, WIDTH)
    made.make("embeddings.position_embeddings", 1, 1 + GRID * GRID, WIDTH)
    made.make("embeddings.patch_embeddings.projection.weight", WIDTH, 3, PATCH, PATCH, scale=0.05)
    made.make("embeddings.patch_embeddings.projection.bias", WIDTH)
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        made.norm(f"{at}.norm1")
        made.norm(f"{at}.norm2")
        for part in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            made.linear(f"{at}.{part}", WIDTH, WIDTH)
        made.linear(f"{at}.attention.output.dense", WIDTH, WIDTH)
        made.linear(f"{at}.mlp.fc1", 4 * WIDTH, WIDTH)
        made.linear(f"{at}.mlp.fc2", WIDTH, 4 * WIDTH)
        for scale in ("layer_scale1", "layer_scale2"):
            made.make(f"{at}.{scale}.lambda1", WIDTH)
    made.norm("layernorm")
    return dict(made)


def clip_file():
    """Tensors by the names that openai/clip-vit-large-patch14 has, small ones."""
    made, side = Names(), SIZE // PATCH
    made.make("vision_model.embeddings.class_embedding", WIDTH)
    made.make("vision_model.embeddings.patch_embedding.weight", WIDTH, 3, PATCH, PATCH, scale=0.05)
    made.make("vision_model.embeddings.position_embedding.weight", 1 + side * side, WIDTH)
    made["vision_model.embeddings.position_ids"] = torch.arange(1 + side * side)[None]
    made.norm("vision_model.pre_layrnorm")
    for layer in range(LAYERS):
        at = f"vision_model.encoder.layers.{layer}"
        made.norm(f"{at}.layer_norm1")
        made.norm(f"{at}.layer_norm2")
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made.linear(f"{at}.self_attn.{part}", WIDTH, WIDTH)
        made.linear(f"{at}.mlp.fc1", 4 * WIDTH, WIDTH)
        made.linear(f"{at}.mlp.fc2", WIDTH, 4 * WIDTH)
    made.norm("vision_model.post_layernorm")
    made.linear("visual_projection", PROJECTION, WIDTH, bias=False)
    made.make("logit_scale", 1)
    made.make("text_model.embeddings.token_embedding.weight", 3, 4)
    made.make("text_projection.weight", 3, 4)
    return dict(made)


def attention(x, q, k, v, out):
    split = lambda y: y.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
    mixed = scaled_dot_product_attention(*(split(linear(x, *one)) for one in (q, k, v)))
    return linear(mixed.transpose(1, 2).flatten(2), *out)


def patches(images, weight, bias=None):
    """Patches as rows of one product, instead of a convolution."""
    rows = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    return linear(rows, weight.flatten(1), bias)


def pair(held, name):
    return held[f"{name}.weight"], held[f"{name}.bias"]


def dinov2(held, images):
    """DINOv2's class token, written from its paper and its published code's names."""
    x = patches(images, *pair(held, "embeddings.patch_embeddings.projection"))
    x = torch.cat([held["embeddings.cls_token"].expand(len(x), -1, -1), x], 1)
    position, side = held["embeddings.position_embeddings"], SIZE // PATCH
    grid = position[:, 1:].unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
    moved = interpolate(grid, scale_factor=((side + 0.1) / GRID,) * 2, mode="bicubic").flatten(2).transpose(1, 2)
    x = x + torch.cat([position[:, :1], moved], 1)
    norm = lambda x, name: layer_norm(x, (WIDTH,), *pair(held, name), eps=1e-6)  # noqa: E731
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        parts = [pair(held, f"{at}.attention.{part}") for part in
                 ("attention.query", "attention.key", "attention.value", "output.dense")]  # fmt: skip
        x = x + held[f"{at}.layer_scale1.lambda1"] * attention(norm(x, f"{at}.norm1"), *parts)
        inner = gelu(linear(norm(x, f"{at}.norm2"), *pair(held, f"{at}.mlp.fc1")))
        x = x + held[f"{at}.layer_scale2.lambda1"] * linear(inner, *pair(held, f"{at}.mlp.fc2"))
    return norm(x, "layernorm")[:, 0]


def clip(held, images):
    """CLIP's image embedding, likewise."""
    x = patches(images, held["vision_model.embeddings.patch_embedding.weight"])
    x = torch.cat([held["vision_model.embeddings.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = x + held["vision_model.embeddings.position_embedding.weight"]
    norm = lambda x, name: layer_norm(x, (WIDTH,), *pair(held, f"vision_model.{name}"))  # noqa: E731
    x = norm(x, "pre_layrnorm")
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}"
        parts = [pair(held, f"vision_model.{at}.self_attn.{part}") for part in
                 ("q_proj", "k_proj", "v_proj", "out_proj")]  # fmt: skip
        x = x + attention(norm(x, f"{at}.layer_norm1"), *parts)
        inner = linear(norm(x, f"{at}.layer_norm2"), *pair(held, f"vision_model.{at}.mlp.fc1"))
        inner = inner * torch.sigmoid(1.702 * inner)  # the sigmoid approximation of GELU that CLIP was trained with
        x = x + linear(inner, *pair(held, f"vision_model.{at}.mlp.fc2"))
    return linear(norm(x[:, 0], "post_layernorm"), held["visual_projection.weight"])


CASES = [pytest.param(DINOv2, dinov2_file, dinov2, id="dinov2"), pytest.param(CLIP, clip_file, clip, id="clip")]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


def place(kind, tensors, monkeypatch):
    """Put tensors where the published file belongs, and believe their hash."""
    kind.weights.path.parent.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, kind.weights.path)
    sha256 = hashlib.sha256(kind.weights.path.read_bytes()).hexdigest()
    monkeypatch.setattr(kind, "weights", replace(kind.weights, sha256=sha256))
    for name, value in {"width": WIDTH, "layers": LAYERS, "heads": HEADS}.items():
        monkeypatch.setattr(kind, name, value)
    monkeypatch.setattr(CLIP, "projection", PROJECTION)


@pytest.mark.parametrize(("kind", "file", "network"), CASES)
def test_features_are_those_of_the_published_file_and_of_an_independent_network(monkeypatch, kind, file, network):
    held, images = file(), pictures(3)
    place(kind, held, monkeypatch)
    before = torch.get_rng_state()
    extractor = load_extractor(kind.name, Photographs())
    found = extractor(images)
    assert torch.equal(before, torch.get_rng_state())
    floats = {name: tensor.double() for name, tensor in held.items()}
    expected = network(floats, normalised(images, kind.mean, kind.std).double())
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert extractor.hash == hashlib.sha256(kind.weights.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("kind", "file", "network"), CASES)
def test_a_file_with_other_tensors_is_refused(monkeypatch, capfd, kind, file, network):
    complete = file()
    last = "layernorm.bias" if kind is DINOv2 else "visual_projection.weight"
    for change in ({last: None}, {last: torch.zeros(3)}):
        held = {name: tensor for name, tensor in (complete | change).items() if tensor is not None}
        with monkeypatch.context() as patch:
            place(kind, held, patch)
            with pytest.raises(DamagedFileError, match=f"does not fit the network of '{kind.name}'"):
                load_extractor(kind.name, Photographs())(pictures())
            kind.weights.path.unlink()
            kind.weights.path.parent.rmdir()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (300, 260)])
def test_images_are_made_as_stein_et_al_make_them(size):
    images = pictures(size=size)
    transform = Compose(
        [Resize((SIZE, SIZE), InterpolationMode.BICUBIC), ToTensor(), Normalize(DINOv2.mean, DINOv2.std)]
    )
    expected = torch.stack([transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    found = normalised(images, DINOv2.mean, DINOv2.std)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    if min(size) > SIZE:
        return
    # without Pillow: its filter in floats along one axis after the other, each rounded, which may miss a grey level
    smooth = images.float()
    for shape in ((size[0], SIZE), (SIZE, SIZE)):
        smooth = interpolate(smooth, shape, mode="bicubic", antialias=True).round().clamp(0, 255)
    levels = 255 * (found * torch.tensor(DINOv2.std)[:, None, None] + torch.tensor(DINOv2.mean)[:, None, None])
    assert float((levels - smooth).abs().max()) < 1.01


def sampling(side):
    """Weights ``[side, GRID]`` of Keys' cubic convolution with a = -0.75 at the places where DINOv2 samples."""
    a, matrix = -0.75, np.zeros((side, GRID))
    for row, place in enumerate((np.arange(side) + 0.5) * GRID / (side + 0.1) - 0.5):
        for index in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x = abs(place - index)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            matrix[row, min(max(index, 0), GRID - 1)] += near if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4)
    return matrix


def test_position_embeddings_are_sampled_where_dinov2_samples_them():
    side = SIZE // PATCH
    held = torch.randn((1, 1 + GRID * GRID, 3), generator=torch.Generator().manual_seed(0))
    found = resampled(held, side)
    assert torch.equal(found[:, :1], held[:, :1])
    grid, weights = held[0, 1:].unflatten(0, (GRID, GRID)).double(), torch.from_numpy(sampling(side))
    expected = torch.einsum("yi,xj,ijd->yxd", weights, weights, grid)
    torch.testing.assert_close(found[0, 1:].unflatten(0, (side, side)).double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(resampled(found, side), found)


# 303,966,208: the visual part of OpenAI's ViT-L/14; 304,368,640: DINOv2's ViT-L/14 with 37 x 37 positions
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [(DINOv2, 304_368_640 - (GRID**2 - 16**2) * 1024), (CLIP, 303_966_208)],
    ids=["dinov2", "clip"],
)
def test_the_networks_are_vit_l_14(kind, parameters):
    extractor = kind(Photographs())
    with torch.device("meta"):
        network_class, config = extractor.architecture()
        network = network_class(config).eval()
        images = torch.empty(1, 3, SIZE, SIZE)
    assert sum(p.numel() for p in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = extractor.features(network, images)
    assert features.shape == (1, {"dinov2": 1024, "clip": 768}[kind.name])
    assert counter.get_total_flops() == pytest.approx(extractor.operations, rel=1e-4)


def test_what_is_published_is_pinned():
    assert published() == {"clip": CLIP, "dinov2": DINOv2}
    for kind in published().values():
        assert kind.weights.url == (
            f"https://huggingface.co/{kind.weights.repository}/resolve/{kind.weights.revision}/model.safetensors"
        )
        assert (len(kind.weights.sha256), len(kind.weights.revision)) == (64, 40)


def test_data_without_colours_are_refused():
    with pytest.raises(ConfigError, match="takes RGB images of 256 grey levels, which 'digits' has not"):
        load_extractor("dinov2", load_dataset("digits"))


def test_a_damaged_file_and_no_network_are_told_apart(monkeypatch, tmp_path):
    gone = (tmp_path / "gone").absolute().as_uri()
    monkeypatch.setattr("tractbench.evaluation.extractors.vision_transformer.HUB", gone)
    with pytest.raises(DownloadError, match=r"put it at .*facebook--dinov2-large/model.safetensors"):
        load_extractor("dinov2", Photographs()).prepare("cpu", Progress())
    DINOv2.weights.path.parent.mkdir(parents=True, exist_ok=True)
    DINOv2.weights.path.write_bytes(b"another")
    with pytest.raises(DamagedFileError, match="expected 399fba97a95f"):
        load_extractor("dinov2", Photographs())(pictures())


def test_without_transformers_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("tractbench.evaluation.extractors.vision_transformer.find_spec", lambda name: None)
    for ask in (DINOv2.missing, lambda: load_extractor("dinov2", Photographs())(pictures())):
        with pytest.raises(ConfigError, match=r"needs transformers; pip install 'tractbench\[features\]'"):
            ask()


def test_the_contract_test_fetches_nothing():
    for name in published():
        (finding,) = check("extractors", name)
        assert finding.status == "does not apply"
        assert "fetched at the first evaluation" in finding.detail


def test_weights_are_fetched_from_a_file_and_listed(tractbench, tmp_path, monkeypatch):
    file = tmp_path / "elsewhere.safetensors"
    save_file(dinov2_file(), file)
    refused = tractbench("features", "fetch", "dinov2", "--from", file)
    assert refused.code == 2
    assert "expected 399fba97a95f" in refused.err
    assert not DINOv2.weights.path.exists()
    assert tractbench("features", "fetch", "clip", "dinov2", "--from", file).code == 2
    assert "did you mean 'dinov2'" in tractbench("features", "fetch", "dinov").err
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(DINOv2, "weights", replace(DINOv2.weights, sha256=sha256))
    fetched = tractbench("features", "fetch", "dinov2", "--from", file, "--quiet")
    assert (fetched.code, fetched.out.strip()) == (0, str(DINOv2.weights.path))
    assert "Apache-2.0" in fetched.err
    here = {one["name"]: one["here"] for one in tractbench("features", "list", "--json").json}
    assert here == {"clip": False, "dinov2": True}
    assert np.array_equal(np.fromfile(file, np.uint8), np.fromfile(DINOv2.weights.path, np.uint8))
