"""A student's network as diffusers loads it; an exported folder holds this class below the network's own code."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

NETWORK: type[nn.Module]
"""The network's class; the last line of the exported file says it."""


class Student(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The network of a distilled student; ``arguments`` are its constructor's."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.net = NETWORK(**arguments)  # noqa: F821 - as said above

    def forward(self, x: Tensor, noise_level: Tensor, labels: Tensor | None = None, **extra: Tensor) -> Tensor:
        """Return the raw prediction, float32, of a network in any dtype.

        Args:
            x: scaled noisy images ``[B, C, H, W]``.
            noise_level: ``[B]``, as the network is told it.
            labels: class indices ``[B]`` of a class-conditional network.
            extra: what is added to the embedding of the noise level, ``[B, E]``, for students that are told more.
        """
        more = {name: value.to(self.dtype) for name, value in extra.items()}
        raw: Tensor = self.net(x.to(self.dtype), noise_level.to(self.dtype), labels, **more)
        return raw.to(torch.float32)
