"""The reader of flax checkpoints, against flax's layers written with numpy."""

import math

import msgpack
import numpy as np
import pytest
import torch
from readers_data import CH, CLASSES, E, flax_file, flax_params, packed, packed_tree, refused
from torch import nn
from torch.testing import assert_close

from tractbench.nets.build import meta_network
from tractbench.teachers.readers.foreign import fit, read_foreign

GOOGLE = {"channels": 3, "size": 8, "width": 32, "embedding": 64, "multipliers": (1, 2), "blocks": 1, "attention": (4,),
          "head_width": 32, "classes": 7, "outputs": 6}  # fmt: skip

PLACES = {
    "dense0": "time.0", "dense1": "time.2", "class_emb": "class_emb", "conv_in": "down.0",
    "down_0.block_0": "down.1.resblocks", "down_0.downsample": "down.2",
    "down_1.block_0": "down.3.resblocks", "down_1.attn_0": "down.3.attention",
    "mid.block_1": "mid.0.resblocks", "mid.attn_1": "mid.0.attention", "mid.block_2": "mid.1.resblocks",
    "up_1.block_0": "up.0.resblocks", "up_1.attn_0": "up.0.attention",
    "up_1.block_1": "up.1.resblocks", "up_1.attn_1": "up.1.attention", "up_1.upsample": "up.2",
    "up_0.block_0": "up.3.resblocks", "up_0.block_1": "up.4.resblocks", "norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def google(path):
    found = read_foreign(path)
    net = meta_network("google_unet", GOOGLE)
    net.load_state_dict(fit(found.state, net, "x"), assign=True)
    return found, net.eval()


def group_norm(x, parameters):
    """GroupNorm of 32 groups on ``x`` ``[N, H, W, C]``, as flax lays images out."""
    n, h, w, c = x.shape
    groups = x.reshape(n, h * w, 32, c // 32)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    out = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    return out * parameters["scale"].reshape(-1) + parameters["bias"].reshape(-1)


def conv(x, parameters):
    """A 3x3 convolution of ``x`` ``[N, H, W, C]`` with a kernel ``[3, 3, in, out]``."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    out = sum(
        np.einsum("nhwc,co->nhwo", padded[:, i : i + h, j : j + w], parameters["kernel"][i, j])
        for i in range(3)
        for j in range(3)
    )
    return out + parameters["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def flax_block(x, e, p):
    a = conv(silu(group_norm(x, p["norm1"])), p["conv1"])
    scale, shift = np.split(silu(e) @ p["temb_proj"]["kernel"] + p["temb_proj"]["bias"], 2, axis=1)
    a = group_norm(a, p["norm2"]) * (1 + scale[:, None, None]) + shift[:, None, None]
    a = conv(silu(a), p["conv2"])
    short = x @ p["nin_shortcut"]["kernel"] + p["nin_shortcut"]["bias"] if "nin_shortcut" in p else x
    return short + a


def flax_attention(x, p):
    h = group_norm(x, p["norm"])
    q, k, v = (np.einsum("nxyc,chd->nxyhd", h, p[part]["kernel"]) + p[part]["bias"] for part in "qkv")
    weights = np.einsum("nxyhd,nuvhd->nhxyuv", q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(weights - weights.max((-1, -2), keepdims=True))
    weights /= weights.sum((-1, -2), keepdims=True)
    o = np.einsum("nhxyuv,nuvhd->nxyhd", weights, v)
    return x + np.einsum("nxyhd,hdc->nxyc", o, p["proj_out"]["kernel"]) + p["proj_out"]["bias"]


@pytest.mark.parametrize("norm", [lambda c: (c,), lambda c: (1, 1, 1, c)], ids=["flat", "old"])
@torch.no_grad()
def test_converted_blocks_compute_what_flax_computes(tmp_path, norm):
    params = flax_params(norm=norm)
    found, net = google(flax_file(tmp_path / "x", params))
    assert (found.format, found.network, found.parameterisation) == ("flax", "google_unet", "both")
    assert found.arguments == {key: GOOGLE[key] for key in found.arguments}
    random = np.random.default_rng(5)
    e = random.standard_normal((2, E))
    for name in ("down_1.block_0", "mid.block_1", "up_0.block_0"):
        p = params[name]
        x = random.standard_normal((2, 4, 4, p["conv1"]["kernel"].shape[2]))
        block = net.get_submodule(PLACES[name]).double()
        out = block(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(e)).permute(0, 2, 3, 1)
        assert_close(out.numpy(), flax_block(x, e, p), rtol=1e-6, atol=1e-6)
    for name in ("down_1.attn_0", "mid.attn_1", "up_1.attn_1"):
        x = random.standard_normal((2, 4, 4, 64))
        out = net.get_submodule(PLACES[name]).double()(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert_close(out.numpy(), flax_attention(x, params[name]), rtol=1e-6, atol=1e-6)
    x = random.standard_normal((2, 8, 8, 3))
    out = net.down[0].double()(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert_close(out.numpy(), conv(x, params["conv_in"]), rtol=1e-6, atol=1e-6)
    raw = random.standard_normal((2, CH))
    hidden = silu(raw @ params["dense0"]["kernel"] + params["dense0"]["bias"])
    expected = hidden @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    assert_close(net.time.double()(torch.from_numpy(raw)).numpy(), expected, rtol=1e-6, atol=1e-6)
    row = params["class_emb"]["kernel"][4] + params["class_emb"]["bias"]
    assert_close(net.class_emb(nn.functional.one_hot(torch.tensor(4), CLASSES).float()).numpy(), row)


def test_every_layer_has_its_place(tmp_path):
    params = flax_params()
    state = read_foreign(flax_file(tmp_path / "x", params)).state
    for layer, place in PLACES.items():
        inner = params[layer]
        leaf = inner if "bias" in inner else inner["conv1" if "conv1" in inner else "proj_out"]
        name = place if "bias" in inner else f"{place}.{'conv1' if 'conv1' in inner else 'out'}"
        assert np.array_equal(state[f"{name}.bias"].numpy(), leaf["bias"].reshape(-1)), layer


def test_optimiser_state_is_passed_over(tmp_path):
    params = flax_params()
    optimizer = {"target": packed_tree(flax_params(1)), "state": {"step": packed(np.array(3))}}
    found = read_foreign(flax_file(tmp_path / "x", params, optimizer))
    plain = read_foreign(flax_file(tmp_path / "y", params))
    assert all(torch.equal(found.state[name], tensor) for name, tensor in plain.state.items())


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (msgpack.ExtType(1, msgpack.packb([[2], "float32", b"\0" * 7])), "other bytes"),
        (msgpack.ExtType(1, msgpack.packb([[-2], "float32", b"\0" * 8])), "other bytes"),
        (msgpack.ExtType(1, msgpack.packb([[1], "object", b"\0" * 8])), "dtype"),
        (msgpack.ExtType(1, msgpack.packb([[1 << 40, 1 << 40], "float32", b""])), "other bytes"),
        (msgpack.ExtType(1, msgpack.packb(3)), "without shape"),
        (msgpack.ExtType(2, msgpack.packb([[1], "float32", b"\0" * 4])), "extension type 2"),
        ("text", "neither"),
        ({"__msgpack_chunked_array__": True}, "neither"),
    ],
)
def test_false_arrays_are_refused(tmp_path, array, reason):
    params = packed_tree(flax_params())
    params["conv_in"]["kernel"] = array
    (tmp_path / "x").write_bytes(msgpack.packb({"ema_params": params, "step": 1}))
    assert reason in refused(tmp_path / "x")


def test_flax_files_of_another_network_are_refused(tmp_path):
    for change in ("rename", "drop", "extra"):
        params = flax_params()
        if change == "rename":
            params["mystery"] = params.pop("mid.block_1")
        elif change == "drop":
            del params["conv_in"]
        else:
            params["mid.block_1"]["odd"] = params["mid.block_1"]["conv1"]
        refused(flax_file(tmp_path / "x", params))
    (tmp_path / "x").write_bytes(msgpack.packb({"params": {}, "step": 1}))
    assert "ema_params" in refused(tmp_path / "x")
    (tmp_path / "x").write_bytes(msgpack.packb({"ema_params": {1: 2}}))
    refused(tmp_path / "x")


def test_cut_and_oversized_flax_files_are_refused(tmp_path):
    path = flax_file(tmp_path / "x", flax_params())
    content = path.read_bytes()
    for cut in (1, 5, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        refused(path)
    path.write_bytes(content + b"\x01")
    assert "1 bytes after" in refused(path)
    path.write_bytes(b"\xdf\xff\xff\xff\xff\xa1a\x01")  # a map that claims 2^32 - 1 entries
    refused(path)
    path.write_bytes(b"\x81\xaaema_params\xc9\xff\xff\xff\xff\x01")  # an array that claims 4 GiB
    refused(path)
