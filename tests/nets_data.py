"""Small U-Nets with deterministic weights, and inputs of theirs."""

import math
import zlib

import numpy as np
import torch

from tractbench.nets.dhariwal_unet import DhariwalUNet
from tractbench.nets.google_unet import GoogleUNet
from tractbench.nets.song_unet import SongUNet


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


class SigmaIsTime:
    """Variance exploding, with sigma itself as the time."""

    def sigma(self, t):
        return t
