"""Seconds and memory that `teacher import` takes for a file of 300M parameters, as a multiple of the file.

    python tests/benchmarks/import_teacher.py [--format edm_pickle|flax|state_dict]

The file is EDM's ImageNet network, or Google's, with random weights. Each import runs in a process of its own; its peak
of resident memory is also given without what the interpreter holds after its imports.
"""

import argparse
import collections
import os
import pickle
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import msgpack
import numpy as np
import torch
from torch import nn

from tractbench.nets.build import build_network
from tractbench.teachers.published import published_teachers

CARDS = {"edm_pickle": "edm-imagenet64-adm", "flax": "google-imagenet64", "state_dict": "google-imagenet64-port"}

CHILD = """
import sys, time
from pathlib import Path
from tractbench.teachers.published import import_teacher, published_teacher

def peak():  # of this program alone; getrusage would count the parent's too
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before, started = peak(), time.perf_counter()
import_teacher(Path(sys.argv[1]), published_teacher(sys.argv[2]))
print(time.perf_counter() - started, peak(), before)
"""


class Persistent:
    """An object in EDM's format."""

    def __init__(self, class_name, state):
        self.meta = {"type": "class", "version": 6, "module_src": "", "class_name": class_name, "state": state}

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def persistent(module):
    children = {name: persistent(child) for name, child in module._modules.items() if child is not None}
    state = {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers), "_modules": children}
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container.__dict__ = state
        return container
    return Persistent(type(module).__name__, state)


def write_edm(path, net):
    package = types.ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise AssertionError", package.__dict__)
    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": package}
    kwargs = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "model_type": "DhariwalUNet"}
    state = {"_parameters": {}, "_buffers": {}, "_modules": {"model": persistent(net)}, "_init_args": (),
             "_init_kwargs": kwargs}  # fmt: skip
    with path.open("wb") as file:
        pickle.dump({"ema": Persistent("EDMPrecond", state)}, file, protocol=4)


def write_flax(path, net):
    """The port's tensors in flax's layouts and names."""

    def packed(tensor):
        array = np.ascontiguousarray(tensor.detach().numpy())
        return msgpack.ExtType(1, msgpack.packb([list(array.shape), "float32", array.tobytes()]))

    def conv(layer):
        return {"kernel": packed(layer.weight.permute(2, 3, 1, 0)), "bias": packed(layer.bias)}

    def dense(layer):
        return {"kernel": packed(layer.weight.flatten(1).t()), "bias": packed(layer.bias)}

    def norm(layer):
        return {"scale": packed(layer.weight), "bias": packed(layer.bias)}

    def block(b):
        layers = {"norm1": norm(b.norm1), "conv1": conv(b.conv1), "temb_proj": dense(b.time[1]),
                  "norm2": norm(b.norm2), "conv2": conv(b.conv2)}  # fmt: skip
        return layers | ({"nin_shortcut": dense(b.skip)} if hasattr(b.skip, "weight") else {})

    def attention(a):
        c = a.out.weight.shape[0]
        maps = {}
        for i, part in enumerate("qkv"):
            kernel = a.qkv.weight.reshape(c // 64, 3, 64, c)[:, i].permute(2, 0, 1)
            maps[part] = {"kernel": packed(kernel), "bias": packed(a.qkv.bias.reshape(c // 64, 3, 64)[:, i])}
        out = {"kernel": packed(a.out.weight[:, :, 0, 0].t().reshape(c // 64, 64, c)), "bias": packed(a.out.bias)}
        return maps | {"norm": norm(a.norm), "proj_out": out}

    params = {"dense0": dense(net.time[0]), "dense1": dense(net.time[2]), "class_emb": dense(net.class_emb),
              "conv_in": conv(net.down[0]), "norm_out": norm(net.out[0]), "conv_out": conv(net.out[2])}  # fmt: skip

    def stage(name, attention_name, part):
        params[name] = block(getattr(part, "resblocks", part))
        if getattr(part, "attention", None) is not None and hasattr(part.attention, "qkv"):
            params[attention_name] = attention(part.attention)

    for i in range(4):
        for j in range(3):
            stage(f"down_{i}.block_{j}", f"down_{i}.attn_{j}", net.down[1 + 4 * i + j])
        if i < 3:
            stage(f"down_{i}.downsample", "", net.down[4 + 4 * i])
        for j in range(4):
            stage(f"up_{i}.block_{j}", f"up_{i}.attn_{j}", net.up[5 * (3 - i) + j])
        if i:
            stage(f"up_{i}.upsample", "", net.up[5 * (3 - i) + 4])
    stage("mid.block_1", "mid.attn_1", net.mid[0])
    stage("mid.block_2", "", net.mid[1])
    packer = msgpack.Packer(use_bin_type=True)
    with path.open("wb") as file:
        file.write(packer.pack_map_header(2) + packer.pack("step") + packer.pack(1) + packer.pack("ema_params"))
        file.write(packer.pack_map_header(len(params)))
        for name in list(params):
            file.write(packer.pack(name) + packer.pack(params.pop(name)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=CARDS, action="append", help="only this one; repeatable")
    options = parser.parse_args()
    for kind in options.format or CARDS:
        card = published_teachers()[CARDS[kind]]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            net = build_network(card.network, card.arguments, torch.Generator().manual_seed(0))
            if kind == "edm_pickle":
                write_edm(path, net)
            elif kind == "flax":
                write_flax(path, net)
            else:
                torch.save(collections.OrderedDict(net.state_dict()), path)
            del net
            size = path.stat().st_size
            environment = os.environ | {"TRACTBENCH_CACHE": folder}
            command = [sys.executable, "-c", CHILD, str(path), card.name]
            started = time.perf_counter()
            out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            seconds, peak, before = map(float, out.split())
            print(
                f"{kind:12} {size / 1e6:6.0f} MB: import {seconds:4.1f} s, whole process "
                f"{time.perf_counter() - started:4.1f} s, peak {peak / size:.2f} of the file "
                f"({(peak - before) / size:.2f} without the interpreter's {before / 1e6:.0f} MB)",
                flush=True,
            )


if __name__ == "__main__":
    main()
