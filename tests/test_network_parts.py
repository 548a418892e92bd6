"""Embeddings, blocks, resampling and initialisation of the U-Nets against closed forms."""

import math

import pytest
import torch
from nets_data import NETS, SigmaIsTime, filled, inputs, random
from torch import nn
from torch.testing import assert_close

from tractbench.diffusion.denoiser import SigmaDenoiser
from tractbench.diffusion.processes import VP as CosineVP
from tractbench.nets import google_unet, song_unet, unet
from tractbench.nets.dhariwal_unet import cosines_and_sines
from tractbench.nets.embedding import log_snr_to_unit, sinusoidal
from tractbench.nets.song_unet import Positional
from tractbench.nets.unet import FusedDownConv, Resample, ResampledConv, Step, Style

pytestmark = pytest.mark.usefixtures("one_thread")

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
