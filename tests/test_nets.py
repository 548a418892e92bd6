"""The published U-Nets against parameter counts, fingerprints and invariances."""

import pytest
import torch
from nets_data import NETS, augment, dhariwal, filled, google, hashed, inputs, song
from torch.testing import assert_close

from tractbench.nets.architectures import architecture
from tractbench.nets.dhariwal_unet import DhariwalUNet
from tractbench.nets.google_unet import GoogleUNet
from tractbench.nets.song_unet import SongUNet

pytestmark = pytest.mark.usefixtures("one_thread")


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
