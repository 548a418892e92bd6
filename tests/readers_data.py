"""Checkpoints in foreign formats, made with the formats' own libraries."""

import collections
import pickle
import sys
import types

import msgpack
import numpy as np
import pytest
import torch
from torch import nn

from tractbench.errors import DamagedFileError
from tractbench.nets.build import build_network
from tractbench.teachers.readers.foreign import read_foreign

SONG = {"channels": 3, "size": 8, "width": 16, "embedding": 64, "multipliers": (1, 2), "blocks": 1, "attention": (4,),
        "noise_width": 16}  # fmt: skip
NCSN = SONG | {"noise_width": 32, "fourier": True, "auxiliary": True, "taps": (1, 3, 3, 1), "classes": 4}
ADM = {"channels": 3, "size": 8, "width": 32, "embedding": 128, "multipliers": (1, 2), "blocks": 1, "attention": (8, 4),
       "classes": 5}  # fmt: skip
COMMON = {"img_resolution": 8, "img_channels": 3, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.13,
          "use_fp16": False, "augment_dim": 9}  # fmt: skip
KWARGS = {
    "song": COMMON | {"model_type": "SongUNet", "model_channels": 16, "attn_resolutions": [4],
                      "embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard",
                      "channel_mult_noise": 1, "resample_filter": [1, 1]},
    "ncsn": COMMON | {"model_type": "SongUNet", "model_channels": 16, "attn_resolutions": [4], "label_dim": 4,
                      "embedding_type": "fourier", "encoder_type": "residual", "decoder_type": "standard",
                      "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]},
    "adm": COMMON | {"model_type": "DhariwalUNet", "model_channels": 32, "attn_resolutions": [8, 4], "label_dim": 5},
}  # fmt: skip
CASES = {"song": ("song_unet", SONG), "ncsn": ("song_unet", NCSN), "adm": ("dhariwal_unet", ADM)}


def network(case, **more):
    name, arguments = CASES[case]
    net = build_network(name, arguments | more, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return net.eval()


# Files in EDM's format, pickled by pickle and torch themselves under the names that the format has.


class Persistent:
    """An object that pickles as a call of the format's reconstruction function."""

    def __init__(self, class_name, state, **meta):
        self.meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": class_name,
                     "state": state} | meta  # fmt: skip

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def modules_of_the_format():
    """The modules that a writer of the format has; they are gone while a file is read."""
    package, module, easy = (types.ModuleType(n) for n in ("torch_utils", "torch_utils.persistence", "dnnlib.util"))
    exec("def _reconstruct_persistent_obj(meta): raise AssertionError", module.__dict__)
    exec("class EasyDict(dict): pass", easy.__dict__)
    package.persistence = module
    return {"torch_utils": package, "torch_utils.persistence": module, "dnnlib": types.ModuleType("dnnlib"),
           "dnnlib.util": easy}  # fmt: skip


def persistent(module, mapping):
    state = (
        dict(vars(module)) if isinstance(module, nn.ModuleDict) else {"training": False, "skip_scale": np.float64(0.5)}
    )
    buffers = mapping(module._buffers)
    if hasattr(module, "weight"):
        buffers.setdefault("resample_filter", None)
    children = mapping({name: child and persistent(child, mapping) for name, child in module._modules.items()})
    state |= {"_parameters": mapping(module._parameters), "_buffers": buffers, "_modules": children,
              "_non_persistent_buffers_set": set(), "_forward_hooks": collections.OrderedDict()}  # fmt: skip
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container.__dict__ = state
        return container
    return Persistent(type(module).__name__, state)


def edm_file(path, modules, net, kwargs, wrapper="EDMPrecond", protocol=4, mapping=dict, u=None, **more):
    root = persistent(net, mapping)
    augment = nn.Linear(9, 16, bias=False)
    root.meta["state"]["_modules"]["map_augment"] = persistent(augment, mapping)
    state = {"_parameters": {}, "_buffers": {} if u is None else {"u": u}, "_modules": {"model": root},
             "_init_args": (), "_init_kwargs": kwargs, "sigma_data": 0.5, "label_dim": 0}  # fmt: skip
    content = {"ema": Persistent(wrapper, state), "loss_fn": Persistent("EDMLoss", {"P_mean": np.float32(-1.2)}),
               "augment_pipe": None, "dataset_kwargs": {"path": "x"}} | more  # fmt: skip
    return dump(path, modules, content, protocol)


def dump(path, modules, content, protocol=4):
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return path


def refused(path):
    """Read a file that must be refused, with a payload's mark absent and no module imported."""
    before = set(sys.modules)
    with pytest.raises(DamagedFileError) as caught:
        read_foreign(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (path.parent / "executed").exists()
    imported = set(sys.modules) - before - {"encodings.raw_unicode_escape"}  # which protocol 0 is written in
    assert imported == set()
    return str(caught.value)


def packed(array):
    """An array as flax stores it: extension 1 of shape, dtype name and bytes."""
    content = msgpack.packb([list(array.shape), array.dtype.name, array.tobytes()], use_bin_type=True)
    return msgpack.ExtType(1, content)


CH, E, CLASSES, HEADS = 32, 64, 7, 2


def flax_params(seed=0, norm=lambda c: (c,)):
    """Random parameters of a two-level flax network, [32, 64] channels, one block a level, attention at level 1."""
    random = np.random.default_rng(seed)

    def array(*shape):
        return (random.standard_normal(shape) / 5).astype(np.float32)

    def dense(inputs, outputs):
        return {"kernel": array(inputs, outputs), "bias": array(outputs)}

    def conv(inputs, outputs):
        return {"kernel": array(3, 3, inputs, outputs), "bias": array(outputs)}

    def group(channels):
        return {"scale": array(*norm(channels)), "bias": array(*norm(channels))}

    def block(inputs, outputs):
        layers = {"norm1": group(inputs), "conv1": conv(inputs, outputs), "temb_proj": dense(E, 2 * outputs),
                  "norm2": group(outputs), "conv2": conv(outputs, outputs)}  # fmt: skip
        return layers | ({"nin_shortcut": dense(inputs, outputs)} if inputs != outputs else {})

    def attention(channels):
        width = channels // HEADS
        maps = {part: {"kernel": array(channels, HEADS, width), "bias": array(HEADS, width)} for part in "qkv"}
        out = {"kernel": array(HEADS, width, channels), "bias": array(channels)}
        return {"norm": group(channels), "proj_out": out} | maps

    return {
        "dense0": dense(CH, E), "dense1": dense(E, E), "class_emb": dense(CLASSES, E), "conv_in": conv(3, CH),
        "down_0.block_0": block(32, 32), "down_0.downsample": block(32, 32),
        "down_1.block_0": block(32, 64), "down_1.attn_0": attention(64),
        "mid.block_1": block(64, 64), "mid.attn_1": attention(64), "mid.block_2": block(64, 64),
        "up_1.block_0": block(128, 64), "up_1.attn_0": attention(64), "up_1.block_1": block(96, 64),
        "up_1.attn_1": attention(64), "up_1.upsample": block(64, 64),
        "up_0.block_0": block(96, 32), "up_0.block_1": block(64, 32),
        "norm_out": group(32), "conv_out": conv(32, 6),
    }  # fmt: skip


def packed_tree(tree):
    return {key: packed_tree(value) if isinstance(value, dict) else packed(value) for key, value in tree.items()}


def flax_file(path, params, optimizer=None, **more):
    content = {"step": packed(np.array(7, np.int32)), "optimizer": optimizer, "ema_params": packed_tree(params),
               "num_sample_steps": 0} | more  # fmt: skip
    path.write_bytes(msgpack.packb(content, use_bin_type=True))
    return path
