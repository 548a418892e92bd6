"""The published U-Nets and preconditionings against parameter counts, closed forms, invariances and fingerprints."""

import math
import zlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tractbench.diffusion.denoiser import BothDenoiser, SigmaDenoiser, x0_from_both
from tractbench.diffusion.preconditioning import EDM, IDDPM, VESong, VPLinear
from tractbench.diffusion.processes import VP as CosineVP
from tractbench.nets import google_unet, song_unet, unet
from tractbench.nets.architectures import architecture
from tractbench.nets.dhariwal_unet import DhariwalUNet, cosines_and_sines
from tractbench.nets.embedding import log_snr_to_unit, sinusoidal
from tractbench.nets.google_unet import GoogleUNet
from tractbench.nets.song_unet import Positional, SongUNet
from tractbench.nets.unet import FusedDownConv, Resample, ResampledConv, Step, Style

A = Style(eps=1e-6, group_width=1, head_width=0, interleaved=False, scales=True, keeps_filter=False)
B = Style(
    eps=1e-6,
    group_width=4,
    head_width=0,
    interleaved=True,
    scales=False,
    residual_scale=math.sqrt(0.5),
    resampled_projection=True,
)
C = Style(eps=1e-5, group_width=4, head_width=64, interleaved=True, scales=True)
SMOOTH = Style(eps=1e-6, group_width=4, head_width=0, interleaved=True, scales=False, taps=(1, 3, 3, 1))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def google(**arguments):
    return lambda **more: GoogleUNet(**{"channels": 3, **arguments, **more})


def song(**arguments):
    return lambda **more: SongUNet(**{"channels": 3, **arguments, **more})


def dhariwal(**arguments):
    return lambda **more: DhariwalUNet(**{"channels": 3, **arguments, **more})


NETS = {
    "G1": google(size=8, width=32, embedding=32, multipliers=(1, 2), blocks=1, attention=(4,)),
    "G2": google(
        size=8,
        width=32,
        embedding=32,
        multipliers=(1, 1, 2),
        blocks=2,
        attention=(8, 4),
        head_width=8,
        classes=3,
        outputs=6,
    ),
    "S1": song(size=8, width=16, embedding=64, noise_width=16, multipliers=(1, 2), blocks=1, attention=(8,), classes=3),
    "S2": song(
        size=8,
        width=16,
        embedding=64,
        noise_width=32,
        multipliers=(1, 1, 2),
        blocks=2,
        attention=(4,),
        augment=4,
        fourier=True,
        auxiliary=True,
        taps=(1, 3, 3, 1),
    ),
    "A1": dhariwal(
        size=8, width=64, embedding=64, multipliers=(1, 2), blocks=1, attention=(8, 4), classes=3, outputs=6
    ),
}
"""The small networks of the fingerprints."""


def hashed(name, shape):
    """A deterministic fill in [-1, 1) from an integer hash of the name and the row-major index."""
    k = (np.arange(math.prod(shape), dtype=np.uint64) + zlib.crc32(name.encode())) % 2**32
    for _ in range(2):
        k ^= k >> 16
        k = k * 73244475 % 2**32
    k ^= k >> 16
    return torch.from_numpy(k / 2**31 - 1).reshape(tuple(shape))


def filled(net):
    """The network with deterministic weights, all non-zero."""
    state = net.state_dict()
    for name, tensor in state.items():
        w = math.sqrt(3) * hashed(name, tensor.shape)
        if name.endswith("resample_filter"):
            continue
        if name.endswith("freqs"):
            fill = w
        elif tensor.ndim > 1:
            fill = w / math.sqrt(tensor[0].numel())
        else:
            fill = 1 + 0.2 * w if name.endswith("weight") else 0.1 * w
        tensor.copy_(fill)
    return net.eval()


def inputs(name, batch=2):
    """Image, noise label and labels of a fingerprint."""
    image = math.sqrt(3) * hashed("input", (2, 3, 8, 8))
    noise = [-4.0, 6.0] if name.startswith("G") else [-0.7, 0.3]
    labels = None if name in ("G1", "S2") else torch.tensor([2, 0])[:batch]
    return image.float()[:batch], torch.tensor(noise)[:batch], labels


def augment():
    return {"augment": hashed("augment", (2, 4)).float()}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.fixture(scope="module")
def nets():
    return {name: filled(build()) for name, build in NETS.items()}


# Parameter counts and names


def google_preset(name):
    return lambda: GoogleUNet(**architecture(f"google-{name}").arguments)


def song_preset(name, **more):
    return lambda: SongUNet(**architecture(name).arguments | more)


def dhariwal_preset(**more):
    return lambda: DhariwalUNet(**architecture("adm-imagenet64").arguments | more)


@pytest.mark.parametrize(
    ("build", "count", "entries"),
    [
        (google_preset("cifar10"), 60_004_099, 394),
        (google_preset("imagenet64"), 295_905_222, 542),
        (song_preset("ddpm++-cifar10", augment=9), 55_733_891, 425),
        (song_preset("ddpm++-cifar10", augment=9, classes=10), 55_735_299, 427),
        (song_preset("ddpm++-cifar10"), 55_732_739, 424),
        (song_preset("ddpm++-cifar10", classes=10), 55_734_147, 426),
        (song_preset("ncsn++-cifar10", augment=9), 56_397_827, 432),
        (song_preset("ncsn++-cifar10", augment=9, classes=10), 56_400_643, 434),
        (song_preset("ncsn++-cifar10"), 56_395_523, 431),
        (song_preset("ncsn++-cifar10", classes=10), 56_398_339, 433),
        (song_preset("ddpm++-ffhq64", size=32), 61_804_419, 552),
        (song_preset("ncsn++-ffhq64", size=32), 62_758_787, 562),
        (song_preset("ddpm++-ffhq64", augment=9), 61_805_571, 553),
        (song_preset("ncsn++-ffhq64", augment=9), 62_761_091, 563),
        (dhariwal_preset(), 295_899_267, 553),
        (dhariwal_preset(outputs=6), 295_904_454, 553),
    ],
)
def test_presets_have_the_published_size(build, count, entries):
    with torch.device("meta"):
        net = build()
    assert parameters(net) == count
    assert len(net.state_dict()) == entries


GOOGLE = {"size": 16, "width": 32, "embedding": 64, "attention": (8,)}
SONG = {"size": 16, "attention": (8,), "augment": 9}


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (google(**GOOGLE, multipliers=(1, 2), blocks=1), 747_491),
        (google(**GOOGLE | {"attention": (4, 8)}, multipliers=(1, 1, 1), blocks=2), 635_971),
        (
            google(
                **GOOGLE | {"attention": (8, 16)}, multipliers=(1, 2), blocks=1, head_width=16, classes=7, outputs=6
            ),
            761_734,
        ),
        (song(**SONG, width=32, embedding=128, noise_width=32, multipliers=(1, 2), blocks=1, classes=5), 750_371),
        (
            song(
                **SONG,
                width=16,
                embedding=64,
                noise_width=32,
                multipliers=(1, 2, 2),
                blocks=2,
                fourier=True,
                auxiliary=True,
                taps=(1, 3, 3, 1),
            ),
            448_275,
        ),
        (
            dhariwal(
                size=16,
                width=32,
                embedding=128,
                multipliers=(1, 2),
                blocks=1,
                attention=(16, 8),
                classes=5,
                augment=4,
            ),
            828_259,
        ),
        (
            dhariwal(
                size=8, width=128, embedding=128, multipliers=(1,), blocks=1, attention=(8,), classes=5, outputs=6
            ),
            2_314_374,
        ),
        (NETS["G1"], 710_563),
        (NETS["G2"], 1_138_118),
        (NETS["S1"], 183_075),
        (NETS["S2"], 304_515),
        (NETS["A1"], 2_878_278),
    ],
)
def test_small_networks_have_the_computed_size(build, count):
    with torch.device("meta"):
        assert parameters(build()) == count


def layers_under(net, prefix):
    names = [name.removeprefix(prefix) for name in net.state_dict() if name.startswith(prefix)]
    return sorted({name.rpartition(".")[0] for name in names})


def test_google_names_and_shapes():
    with torch.device("meta"):
        net = GoogleUNet(**architecture("google-imagenet64").arguments)
    state = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    block = ["conv1", "conv2", "norm1", "norm2", "time.1"]
    attention = ["attention.norm", "attention.out", "attention.qkv"]
    assert layers_under(net, "down.1.") == [f"resblocks.{name}" for name in block]
    assert layers_under(net, "down.4.") == block  # level 0's downsampling
    assert layers_under(net, "down.5.") == attention + [f"resblocks.{name}" for name in sorted([*block, "skip"])]
    assert layers_under(net, "mid.") == [
        *(f"0.{name}" for name in attention),
        *(f"{i}.resblocks.{name}" for i in (0, 1) for name in block),
    ]
    assert layers_under(net, "up.0.") == attention + [f"resblocks.{name}" for name in sorted([*block, "skip"])]
    assert layers_under(net, "up.4.") == block  # level 3's upsampling
    assert [layers_under(net, f"{part}.") for part in ("time", "out")] == [["0", "2"], ["0", "2"]]
    assert state["time.0.weight"] == (768, 192)
    assert state["class_emb.weight"] == (768, 1000)
    assert state["down.0.weight"] == (192, 3, 3, 3)
    assert state["up.0.attention.qkv.weight"] == (3 * 768, 768, 1, 1)
    assert state["up.0.resblocks.time.1.weight"] == (2 * 768, 768)
    assert state["out.2.weight"] == (6, 192, 3, 3)
    joins = [i for level in range(4) for i in range(5 * level, 5 * level + 4)]
    widths = [1536, 1536, 1536, 1344, 1344, 1152, 1152, 960, 960, 768, 768, 576, 576, 384, 384, 384]
    assert [state[f"up.{i}.resblocks.conv1.weight"][1] for i in joins] == widths
    assert sum(name.startswith("down.") and name.endswith("norm1.weight") for name in state) == 4 * 3 + 3  # and 3 downs


def test_song_names_and_shapes():
    with torch.device("meta"):
        net = SongUNet(**architecture("ncsn++-cifar10").arguments | {"classes": 10, "augment": 9})
    state = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    block = ["affine", "conv0", "conv1", "norm0", "norm1"]
    attended = sorted([*block, "norm2", "proj", "qkv"])
    encoder = ["32x32_conv", *(f"32x32_block{i}" for i in range(4)), "16x16_down", "16x16_aux_residual"]
    encoder += [*(f"16x16_block{i}" for i in range(4)), "8x8_down", "8x8_aux_residual"]
    assert list(net.enc) == [*encoder, *(f"8x8_block{i}" for i in range(4))]
    assert list(net.dec) == [
        *("8x8_in0", "8x8_in1", *(f"8x8_block{i}" for i in range(5))),
        *("16x16_up", *(f"16x16_block{i}" for i in range(5))),
        *("32x32_up", *(f"32x32_block{i}" for i in range(5)), "32x32_aux_norm", "32x32_aux_conv"),
    ]
    attends = [f"enc.16x16_block{i}" for i in range(4)] + ["dec.8x8_in0", "dec.16x16_block4"]
    assert [name.removesuffix(".qkv.weight") for name in state if name.endswith("qkv.weight")] == attends
    assert layers_under(net, "enc.16x16_block1.") == attended
    assert layers_under(net, "dec.16x16_up.") == sorted([*block, "skip"])
    assert state["enc.16x16_down.conv0.resample_filter"] == state["dec.32x32_up.skip.resample_filter"] == (1, 1, 4, 4)
    assert state["enc.16x16_aux_residual.weight"] == (256, 3, 3, 3)
    assert state["enc.8x8_aux_residual.weight"] == (256, 256, 3, 3)
    assert state["enc.8x8_aux_residual.resample_filter"] == (1, 1, 4, 4)
    assert state["map_noise.freqs"] == (128,)
    assert state["map_label.weight"] == (256, 10)
    assert state["map_augment.weight"] == (256, 9)
    assert state["map_layer0.weight"] == (512, 256)
    assert state["dec.32x32_block4.conv0.weight"][1] == 384
    assert state["dec.32x32_block3.conv0.weight"][1] == 512


def test_dhariwal_names_and_shapes():
    with torch.device("meta"):
        net = DhariwalUNet(**architecture("adm-imagenet64").arguments)
    state = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    block = ["affine", "conv0", "conv1", "norm0", "norm1"]
    assert layers_under(net, "enc.32x32_down.") == sorted([*block, "skip"])
    assert [name for name in state if name.startswith("enc.32x32_down.skip")] == ["enc.32x32_down.skip.resample_filter"]
    assert state["dec.16x16_up.conv0.resample_filter"] == (1, 1, 2, 2)
    assert state["dec.8x8_in0.affine.weight"] == (2 * 768, 768)
    assert state["map_label.weight"] == (768, 1000)
    assert "map_label.bias" not in state
    assert "out_norm.weight" in state
    assert state["out_conv.weight"] == (3, 192, 3, 3)
    resolutions = {8: 3 + 1 + 4, 16: 3 + 4, 32: 3 + 4, 64: 0}
    for r, count in resolutions.items():
        assert sum(f".{r}x{r}_" in name and name.endswith("qkv.weight") for name in state) == count


# Fingerprints


@pytest.mark.parametrize(
    ("name", "options", "mean", "magnitude", "probe", "first", "last"),
    [
        ("G1", {}, 0.007624, 0.414200, 8.8811, (0.1166, 0.1680, 0.8669, -0.2766), -0.5260),
        ("G2", {}, 0.040984, 0.428328, -5.8832, (-0.0208, -0.3198, -0.1795, -0.2414), 0.3034),
        ("S1", {}, 0.065199, 0.498153, 9.2026, (0.33567, -0.47243, 0.15807, 0.19112), -0.17249),
        ("S2", augment(), 0.016005, 0.485963, 6.1332, (0.75688, -0.03369, -1.08794, -0.20660), 0.27275),
        ("S2", {}, 0.036662, 0.495978, 3.4571, (0.94047, 0.29269, -1.04766, -0.26495), 0.19438),
        ("A1", {}, -0.113474, 0.529481, -7.7814, (0.37435, 0.98932, 0.24252, -0.13371), 0.04725),
    ],
)
def test_fingerprints_agree_with_the_reference(nets, name, options, mean, magnitude, probe, first, last):
    with torch.no_grad():
        out = nets[name](*inputs(name), **options).double()
    assert (out * hashed("probe", out.shape)).sum().item() == pytest.approx(probe, abs=2e-4)
    digits = 6e-5 if name.startswith("G") else 6e-6  # half a unit of the last printed digit
    assert out[0, 0, 0, :4].tolist() == pytest.approx(first, abs=digits)
    assert out.flatten()[-1].item() == pytest.approx(last, abs=digits)
    assert (out.mean().item(), out.abs().mean().item()) == pytest.approx((mean, magnitude), abs=2e-6)


@pytest.mark.parametrize(("name", "probe"), [("G1", 8.8802), ("G2", -5.8809)])
def test_the_epsilon_of_the_group_norms_is_an_argument(name, probe):
    with torch.no_grad():
        out = filled(NETS[name](eps=1e-5))(*inputs(name)).double()
    assert (out * hashed("probe", out.shape)).sum().item() == pytest.approx(probe, abs=2e-4)


def test_the_fill_of_the_fingerprints():
    expected = torch.tensor([-0.41678287, 0.49429074, -0.20350767, 0.53771033], dtype=torch.float64)
    assert_close(hashed("input", (4,)), expected, atol=1e-8, rtol=0)


# Invariances


def mapped(net, change):
    """A copy of the network with every 4-D weight changed; resampling filters are symmetric."""
    copy = filled(NETS[net]())
    state = copy.state_dict()
    for tensor in state.values():
        if tensor.ndim == 4:
            tensor.copy_(change(tensor).clone())
    return copy


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("change", [lambda x: x.flip(-1), lambda x: x.transpose(-1, -2)], ids=["mirror", "transpose"])
@torch.no_grad()
def test_networks_commute_with_symmetries_of_the_image(nets, name, change):
    x, noise, labels = inputs(name)
    out = mapped(name, change)(change(x), noise, labels)
    assert_close(out, change(nets[name](x, noise, labels)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_samples_of_a_batch_are_independent(nets, name):
    both, one = nets[name](*inputs(name)), nets[name](*inputs(name, batch=1))
    assert_close(both[:1], one, atol=1e-5, rtol=0)
    x, noise, labels = inputs(name)
    assert_close(nets[name](x, noise[:1], labels)[:1], one, atol=1e-5, rtol=0)  # one noise label for all


@pytest.mark.parametrize("name", ["S2", "A1"])
@torch.no_grad()
def test_a_zero_augmentation_is_none(name):
    net = filled(NETS[name](augment=4))
    assert torch.equal(net(*inputs(name), augment=torch.zeros(2, 4)), net(*inputs(name)))


@torch.no_grad()
def test_without_labels_only_their_bias_is_left(nets):
    x, noise, _ = inputs("A1")
    bare = filled(NETS["A1"](classes=0))
    assert torch.equal(nets["A1"](x, noise), bare(x, noise))
    x, noise, _ = inputs("S1")
    assert not torch.allclose(nets["S1"](x, noise), filled(NETS["S1"](classes=0))(x, noise))
    with pytest.raises(ValueError, match="labels"):
        nets["G2"](*inputs("G2")[:2])


# Embeddings and schedule


def test_google_embedding():
    unit = log_snr_to_unit(torch.tensor([-20.0, 0.0, 20.0, -25.0, 25.0]))
    expected = torch.tensor([0.999971097507, 0.5, 2.89024929e-5, 0.999971097507, 2.89024929e-5])
    assert_close(unit, expected, rtol=1e-6, atol=0)
    raw = sinusoidal(1000 * unit[1:2], 8)
    expected = torch.tensor([[-0.467772, -0.937994, 0.880643, 0.049979, -0.883849, -0.346653, 0.473781, 0.998750]])
    assert_close(raw, expected, atol=6e-5, rtol=0)


def test_edm_embeddings():
    sines, cosines = [0.909297, 0.092698, 0.004309, 0.000200], [-0.416147, 0.995694, 0.999991, 1.0]
    assert_close(Positional(8)(torch.tensor([2.0])), torch.tensor([sines + cosines]), atol=1e-6, rtol=0)
    cosines, sines = [-0.416147, 0.980067, 0.999800, 0.999998], [0.909297, 0.198669, 0.019999, 0.002000]
    assert_close(cosines_and_sines(torch.tensor([2.0]), 8), torch.tensor([cosines + sines]), atol=1e-6, rtol=0)


def test_google_schedule():
    t = torch.linspace(0, 1, 1025, dtype=torch.float64)
    log_snr = CosineVP().log_snr(t)
    expected = torch.tensor([20, 1.7626187665611515, 0, -1.7626187665611515, -20], dtype=torch.float64)
    assert_close(log_snr[::256], expected, atol=1e-9, rtol=0)
    assert_close(log_snr, -log_snr.flip(0), atol=1e-8, rtol=0)
    line = 2000 / math.pi * (1.5707055269354342 * t + 4.539992973129278e-5)
    assert_close(1000 * log_snr_to_unit(log_snr), line, atol=1e-8, rtol=0)


def test_exact_predictions_of_x_and_eps_give_x():
    x, eps = random(9, 3, 4, 4).double(), random(9, 3, 4, 4, seed=1).double()
    log_snr = torch.linspace(-20, 20, 9, dtype=torch.float64)
    alpha, sigma = log_snr.sigmoid().sqrt()[:, None, None, None], (-log_snr).sigmoid().sqrt()[:, None, None, None]
    assert_close(x0_from_both(torch.cat([x, eps], 1), alpha * x + sigma * eps, log_snr), x, atol=1e-12, rtol=0)


# Blocks


def block(kind, step, style, zero):
    net = filled(kind(step, 16, style))
    for name, parameter in net.named_parameters():
        if name.startswith(zero):
            nn.init.zeros_(parameter)
    return net


@pytest.mark.parametrize("kind", ["A", "C"])
@torch.no_grad()
def test_a_block_without_its_last_layer_only_resamples(kind):
    build, style, zero = (google_unet.ResidualBlock, A, "conv2") if kind == "A" else (song_unet.Block, C, "conv1")
    x, e = random(2, 32, 4, 4), random(2, 16)
    expected = {
        "none": x,
        "up": x.repeat_interleave(2, 2).repeat_interleave(2, 3),
        "down": x.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5)),
    }
    for mode, y in expected.items():
        assert_close(block(build, Step("", 32, 32, mode), style, zero)(x, e), y, atol=1e-6, rtol=0)


@torch.no_grad()
def test_attention_without_its_last_layer_is_the_identity():
    x, e = random(2, 64, 4, 4), random(2, 16)
    attention = google_unet.AttentionBlock(64, A)
    nn.init.zeros_(attention.out.weight)
    nn.init.zeros_(attention.out.bias)
    assert torch.equal(attention(x), x)
    assert torch.equal(block(song_unet.Block, Step("", 64, 64, attention=True), C, ("conv1", "proj"))(x, e), x)


@torch.no_grad()
def test_song_blocks_without_their_last_layers_halve_the_power():
    x, e = random(2, 32, 4, 4), random(2, 16)
    zero = ("conv1", "proj")
    assert_close(block(song_unet.Block, Step("", 32, 32), B, zero)(x, e), x / math.sqrt(2))
    assert_close(block(song_unet.Block, Step("", 32, 32, attention=True), B, zero)(x, e), x / 2)


@pytest.mark.parametrize("interleaved", [True, False])
def test_attention_follows_its_definition(interleaved):
    heads, width = 2, 4
    qkv = random(1, 3 * heads * width, 2, 3)
    rows = qkv[0].flatten(1)  # [3 C, 6]
    expected = []
    for g in range(heads):
        q, k, v = (
            torch.stack(
                [rows[(g * width + c) * 3 + p if interleaved else g * 3 * width + p * width + c] for c in range(width)]
            )
            for p in range(3)
        )
        expected.append(v @ (q.T @ k / math.sqrt(width)).softmax(1).T)
    out = unet.attend(qkv, heads, interleaved)
    assert_close(out, torch.cat(expected).reshape(1, heads * width, 2, 3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("interleaved", [True, False])
def test_attention_without_queries_and_keys_averages_the_values(interleaved):
    qkv, v = torch.zeros(2, 2, 3, 4, 3, 3), random(2, 2, 4, 3, 3)  # (head, part, channel)
    qkv[:, :, 2] = v
    channels = qkv.transpose(2, 3) if interleaved else qkv
    out = unet.attend(channels.reshape(2, 24, 3, 3), 2, interleaved)
    assert_close(out, v.mean((3, 4), keepdim=True).expand_as(v).reshape(2, 8, 3, 3))


def test_group_counts_and_heads():
    groups = {16: 4, 32: 8, 48: 12, 64: 16, 96: 24, 128: 32, 256: 32, 768: 32}
    assert {channels: B.norm(channels).num_groups for channels in groups} == groups
    assert {A.norm(channels).num_groups for channels in (32, 64, 256, 768)} == {32}
    heads = {32: 0, 64: 1, 128: 2, 384: 6, 576: 9, 768: 12}
    assert {channels: C.heads(channels) for channels in heads} == heads
    with torch.device("meta"):
        net = song_unet.Block(Step("", 32, 32, attention=True), 16, C)
    assert not any("qkv" in name for name in net.state_dict())


# Resampling


def test_filters_sum_to_one_and_match_their_definition():
    expected = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
    assert_close(unet.filter_of((1, 3, 3, 1))[0, 0], expected)
    assert_close(Resample("up", B).resample_filter, torch.full((1, 1, 2, 2), 0.25))


def test_the_short_filter_averages_and_repeats():
    x = random(2, 3, 4, 4)
    for mode in ("up", "down"):
        resample = Resample(mode, B)
        assert_close(resample(x), resample.filtered(x, 0))


def test_the_long_filter_on_ramps_and_constants():
    ramp = torch.tensor([1.0, 2, 3, 4]).expand(1, 1, 4, 4)
    up, down, ones = Resample("up", SMOOTH), Resample("down", SMOOTH), torch.ones(1, 1, 8, 8)
    assert up(ramp)[0, 0, 3].tolist() == [0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 3.0]
    reduced, enlarged = down(ones)[0, 0], up(ones)[0, 0]
    assert (reduced[0, 0], reduced[0, 1], reduced[1, 1]) == (49 / 64, 7 / 8, 1)
    assert (enlarged[0, 0], enlarged[0, 5], enlarged[5, 5]) == (9 / 16, 3 / 4, 1)


@pytest.mark.parametrize(
    ("column", "fused", "row"),
    [
        (None, None, (1.3125, 2.515625)),
        (1, True, (1.3125, 2.515625)),
        (0, True, (0.546875, 2.1875)),
        (0, False, (0.0, 1.3125)),
    ],
)
@torch.no_grad()
def test_reducing_a_ramp_with_and_without_a_convolution(column, fused, row):
    ramp = torch.tensor([1.0, 2, 3, 4]).expand(1, 1, 4, 4)
    if column is None:
        net = Resample("down", SMOOTH)
    else:
        net = (FusedDownConv if fused else ResampledConv)(1, 1, 3, "down", SMOOTH)
        nn.init.zeros_(net.weight)[0, 0, 1, column] = 1
        nn.init.zeros_(net.bias)
    assert net(ramp)[0, 0].tolist() == [list(row)] * 2


# Initialisation


@pytest.mark.parametrize("name", NETS)
def test_initialisation_depends_on_the_generator_alone(name):
    def drawn(seed):
        with torch.device("meta"):
            net = NETS[name]()
        net = net.to_empty(device="cpu")
        net.initialise(torch.Generator().manual_seed(seed))
        return net.state_dict()

    before = torch.get_rng_state()
    one, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert all(tensor.isfinite().all() for tensor in one.values())


def fresh(name, **more):
    net = NETS[name](**more)
    net.initialise(torch.Generator().manual_seed(0))
    return net.eval()


@torch.no_grad()
def test_fresh_networks():
    assert not fresh("G1")(*inputs("G1")).any()
    net, (x, _, labels) = fresh("A1"), inputs("A1")
    assert not net(*inputs("A1")).any()
    assert torch.equal(SigmaDenoiser(net, SigmaIsTime())(x, torch.tensor([0.5, 0.5]), labels), x / 2)
    for name in ("S1", "S2"):
        assert 1e-6 < fresh(name)(*inputs(name)).abs().max() < 1e-3
    net = fresh("S1")
    x, e = random(2, 32, 4, 4), random(2, 64)
    assert_close(net.dec["4x4_in0"](x, e), x / 2, atol=1e-4, rtol=0)


def test_the_spread_of_fresh_weights():
    def spread(tensor):  # 1 for a uniform distribution of the given range
        return tensor.abs().max().item(), tensor.std().item() * math.sqrt(3)

    google, song, fourier, adm = (fresh(name).state_dict() for name in ("G1", "S1", "S2", "A1"))
    weight = google["mid.0.resblocks.conv1.weight"] * math.sqrt(9 * 64)
    assert weight.std().item() == pytest.approx(1, abs=0.02)
    assert weight.abs().max().item() == pytest.approx(2 / 0.87963, abs=0.02)
    bound = math.sqrt(6 / (9 * (32 + 32)))
    assert spread(song["dec.4x4_in0.conv0.weight"]) == pytest.approx((bound, bound), rel=0.03)
    assert spread(song["dec.4x4_in0.conv1.weight"]) == pytest.approx((1e-5 * bound, 1e-5 * bound), rel=0.03)
    bound = math.sqrt(0.2 * 6 / (32 + 96))
    assert spread(song["dec.4x4_in0.qkv.weight"]) == pytest.approx((bound, bound), rel=0.05)
    assert fourier["map_noise.freqs"].std().item() == pytest.approx(16, rel=0.6)
    assert torch.equal(fourier["enc.4x4_down.conv0.resample_filter"], unet.filter_of((1, 3, 3, 1)))
    bound = 1 / math.sqrt(9 * 128)
    assert spread(adm["dec.4x4_in0.conv0.weight"]) == pytest.approx((bound, bound), rel=0.03)
    assert 0.8 * bound < adm["dec.4x4_in0.conv0.bias"].abs().max() <= bound
    assert adm["map_label.weight"].std().item() == pytest.approx(1, rel=0.2)


# Preconditioning


@pytest.mark.parametrize(
    ("sigma", "edm", "vp_noise", "ve_noise"),
    [
        (0.001, (0.999996000, 0.000999998, 1.999996, -1.72693882), 0.00998007, -7.60090246),
        (0.01, (0.999600160, 0.009998001, 1.999600, -1.15129255), 0.91547600, -5.29831737),
        (0.5, (0.5, 0.353553391, 1.414213562, -0.17328680), 144.669106, -1.38629436),
        (1.0, (0.2, 0.447213595, 0.894427191, 0), 258.701302, -0.69314718),
        (10.0, (0.00249376559, 0.499376169, 0.0998752339, 0.57564627), 675.368914, 1.60943791),
    ],
)
def test_coefficients_have_their_tabled_values(sigma, edm, vp_noise, ve_noise):
    level = torch.tensor(sigma, dtype=torch.float64)
    assert EDM().coefficients(level) == pytest.approx(edm, rel=1e-6, abs=1e-12)
    scale = 1 / math.sqrt(sigma**2 + 1)
    assert VPLinear().coefficients(level) == pytest.approx((1, -sigma, scale, vp_noise), rel=1e-6)
    assert VESong().coefficients(level) == pytest.approx((1, sigma, 1, ve_noise), rel=1e-8)
    assert IDDPM().coefficients(level)[:3] == pytest.approx((1, -sigma, scale))


def test_ranges_of_the_noise_levels():
    ranges = [(scheme.sigma_min, scheme.sigma_max) for scheme in (EDM(), VPLinear(), VESong(), IDDPM())]
    assert ranges[0] == (0, math.inf)
    assert ranges[1] == pytest.approx((0.00100050, 152.167), rel=1e-5)
    assert ranges[2] == (0.02, 100)
    assert ranges[3] == pytest.approx((0.00642541, 20291.17), rel=1e-6)


def test_vp_noise_is_linear_in_time():
    t = torch.linspace(0.001, 1, 100, dtype=torch.float64)
    assert_close(VPLinear().coefficients(VPLinear().sigma(t)).noise, 999 * t, rtol=1e-9, atol=1e-9)


def test_iddpm_levels():
    scheme = IDDPM()
    known = {1: 641.66235, 2: 320.83039, 8: 80.20370, 100: 6.3645918, 500: 1.0123896, 900: 0.16943564}
    known |= {998: 0.00935049, 999: 0.00642541, 1000: 0.0}
    assert {j: scheme.u[j].item() for j in known} == pytest.approx(known, rel=1e-6)
    u = torch.zeros(1001, dtype=torch.float64)
    for j in range(1000, 0, -1):  # the definition, of which the table is the closed form
        abar = [math.sin(math.pi / 2 * i / (1000 * 1.008)) ** 2 for i in (j - 1, j)]
        u[j - 1] = ((u[j] ** 2 + 1) / max(abar[0] / abar[1], 0.001) - 1).sqrt()
    assert_close(scheme.u, u, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_iddpm_rounds_to_its_levels(dtype):
    scheme, index = IDDPM(), torch.arange(1001)
    u = scheme.u.to(dtype)
    assert torch.equal(scheme.coefficients(u).noise, (999 - index).to(dtype))
    middle = (u[1:] + u[:-1]) / 2
    assert torch.equal(scheme.index(middle * (1 + 1e-4))[:-1], index[:-2])
    assert torch.equal(scheme.index(middle * (1 - 1e-4))[:-1], index[1:-1])
    coarse = IDDPM(u=torch.tensor([3.0, 1.0, 0.0]))
    assert coarse.index(torch.tensor([2.0, 0.5])).tolist() == [0, 1]  # ties go to the lower index


class SigmaIsTime:
    """Variance exploding, with sigma itself as the time."""

    def sigma(self, t):
        return t


@pytest.mark.parametrize("scheme", [EDM(), VPLinear(), VESong(), IDDPM()])
@torch.no_grad()
def test_the_denoiser_combines_image_and_network(nets, scheme):
    x, _, labels = inputs("A1")
    sigma = torch.tensor([0.4, 3.0])
    denoised = SigmaDenoiser(nets["A1"], SigmaIsTime(), scheme)(x.double(), sigma.double(), labels)
    c = scheme.coefficients(sigma)
    skip, out, scale = (value[:, None, None, None] for value in c[:3])
    expected = skip * x + out * nets["A1"](scale * x, c.noise, labels)[:, :3]
    assert denoised.dtype == torch.float32
    assert_close(denoised, expected)


@torch.no_grad()
def test_a_network_of_both_heads_is_a_denoiser(nets):
    x, _, labels = inputs("G2")
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    log_snr = CosineVP().log_snr(t).float()
    first, eps = nets["G2"](x, log_snr, labels).double().chunk(2, dim=1)
    alpha, sigma = (f(t)[:, None, None, None] for f in (CosineVP().alpha, CosineVP().sigma))
    expected = sigma**2 * first + alpha**2 * (x - sigma * eps) / alpha
    assert_close(BothDenoiser(nets["G2"], CosineVP())(x.double(), t, labels).double(), expected, atol=1e-5, rtol=1e-5)


# Layouts, precisions and compilation


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_memory_layout_and_precision_change_only_the_rounding(nets, name):
    x, noise, labels = inputs(name)
    out = nets[name](x, noise, labels)
    net = filled(NETS[name]()).to(memory_format=torch.channels_last)
    assert_close(net(x.to(memory_format=torch.channels_last), noise, labels), out, atol=1e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = nets[name](x, noise, labels)
    error = (rough - out).square().mean().sqrt() / out.square().mean().sqrt()
    assert error < 0.05  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("name", NETS)
def test_networks_run_on_the_meta_device(name):
    x, noise, labels = inputs(name)
    with torch.device("meta"):
        net = NETS[name]()
    out = net(x.to("meta"), noise.to("meta"), None if labels is None else labels.to("meta"))
    assert out.shape == (2, 6 if name in ("G2", "A1") else 3, 8, 8)


@pytest.mark.parametrize("name", ["G2", "S2", "A1"])
@torch.no_grad()
def test_networks_compile_to_a_single_graph(nets, name):
    compiled = torch.compile(nets[name], fullgraph=True, backend="aot_eager")
    assert_close(compiled(*inputs(name)), nets[name](*inputs(name)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_gets_a_gradient(name):
    net = filled(NETS[name](**({"augment": 4} if name in ("S2", "A1") else {}))).train()
    net(*inputs(name), **(augment() if name in ("S2", "A1") else {})).square().sum().backward()
    assert all(parameter.grad.any() for parameter in net.parameters())
