"""The sampler of any student as a loop over a table of numbers; an exported folder holds a copy of this file.

At the times that a sampler visits, all that surrounds the network is known: its preconditioning is
``x0 = skip x + out F(scale x, noise)``, and a step of DDIM or Heun and the fresh noise after it are sums of the state,
x0, the state before and the noise. So a row of coefficients for each evaluation of the network is the whole sampler.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypedDict

import torch
from torch import Tensor


class Evaluation(TypedDict):
    """One evaluation of the network, and the state after it.

    Attributes:
        time: from 1, pure noise, to 0, an image; for the reader alone.
        scale: what the state is multiplied by for the network.
        noise: the noise level that the network is told.
        extra: what is added to the network's embedding of the noise level, ``[E]``; null for nothing.
        skip: the state's share in the prediction x0.
        out: the shares of the network's outputs in it, one for each group of as many channels as the image has.
        clip: whether x0 is clipped to [-1, 1].
        state: the state's share in the next one.
        x0: that of the prediction.
        before: that of the state that the evaluation before this one started from.
        fresh: that of standard normal noise; null where none is drawn.
    """

    time: float
    scale: float
    noise: float
    extra: list[float] | None
    skip: float
    out: list[float]
    clip: bool
    state: float
    x0: float
    before: float
    fresh: float | None


class Network(Protocol):
    """The network, called as ``network(x, noise_level, labels)`` and, of some, with ``extra``."""

    def __call__(self, x: Tensor, noise: Tensor, labels: Tensor | None, **extra: Tensor) -> Tensor:
        """Return ``[B, k C, H, W]`` for ``x`` ``[B, C, H, W]``, noise levels ``[B]`` and class indices ``[B]``."""


def run_sampler(
    network: Network,
    evaluations: Iterable[Evaluation],
    x: Tensor,
    labels: Tensor | None = None,
    fresh: Sequence[Tensor] | Tensor = (),
) -> Tensor:
    """Return the samples ``[B, C, H, W]`` that a sampler makes of noise.

    Args:
        network: the network.
        evaluations: the sampler.
        x: noise of the standard deviation that the sampler starts from, ``[B, C, H, W]``.
        labels: class indices ``[B]`` of a class-conditional network.
        fresh: standard normal noise of x's shape, one for each evaluation whose ``fresh`` is not null.
    """
    before, drawn = x, 0
    for one in evaluations:
        extra = {} if one["extra"] is None else {"extra": x.new_tensor(one["extra"])[None]}
        noise = torch.full_like(x[:, 0, 0, 0], one["noise"])
        outputs = network(one["scale"] * x, noise, labels, **extra).chunk(len(one["out"]), dim=1)
        x0 = one["skip"] * x + sum(share * output for share, output in zip(one["out"], outputs, strict=True))
        if one["clip"]:
            x0 = x0.clamp(-1, 1)
        after = one["state"] * x + one["x0"] * x0
        if one["before"]:
            after = after + one["before"] * before
        if one["fresh"] is not None:
            after, drawn = after + one["fresh"] * fresh[drawn], drawn + 1
        before, x = x, after
    return x
