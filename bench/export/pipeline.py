"""A few-step sampler as a diffusers pipeline; an exported folder holds this class below the loop that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from tractbench.export.loop import run_sampler


class FewStepPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples a distilled student in the steps that it was distilled for.

    Args:
        student: the network.
        sampler: the image's ``shape`` (C, H, W), the number of ``classes``, the ``prior_std`` of the first noise, the
            number of ``fresh_noises`` after it, and a row of coefficients for each of the ``evaluations``.
    """

    model_cpu_offload_seq = "student"

    def __init__(self, student: nn.Module, sampler: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.register_modules(student=student)
        self.register_to_config(sampler=sampler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | Sequence[int] | Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        fresh_noise: Sequence[Tensor] | Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Return images.

        Args:
            batch_size: how many, where neither labels nor latents say it.
            class_labels: a class for each image, or one for all; needed by class-conditional students.
            generator: draws the noise: first that of the images, then all fresh noise of the first time, and so on.
            latents: standard normal noise ``[B, C, H, W]`` instead of drawn noise.
            fresh_noise: standard normal noise ``[fresh_noises, B, C, H, W]`` instead of drawn noise.
            output_type: ``pil``; ``np`` for ``[B, H, W, C]`` or ``pt`` for ``[B, C, H, W]`` in [0, 1]; ``raw`` for the
                sampler's own values, images being in [-1, 1] and points where they are.
            return_dict: return an object with ``images`` instead of a tuple.

        Raises:
            ValueError: the arguments do not go together, or the student has classes and none is given.
        """
        sampler, device = self.config.sampler, self._execution_device
        labels = None if class_labels is None else torch.as_tensor(class_labels, dtype=torch.int64).flatten()
        count = len(latents) if latents is not None else batch_size
        if labels is not None and latents is None and len(labels) > 1:
            count = len(labels)
        shape = (count, *sampler["shape"])
        labels = self._checked(labels, count)
        x = _noise("latents", shape, latents, generator, device)
        drawn: list[Tensor] = []
        for index in range(sampler["fresh_noises"]):
            given = fresh_noise[index] if fresh_noise is not None else None
            drawn.append(_noise("fresh_noise", shape, given, generator, device))
        labels = labels if labels is None else labels.to(device)
        evaluations = self.progress_bar(sampler["evaluations"])
        images = run_sampler(self.student, evaluations, sampler["prior_std"] * x, labels, drawn)
        self.maybe_free_model_hooks()
        shown = _as_asked(images, output_type)
        return ImagePipelineOutput(images=shown) if return_dict else (shown,)

    def _checked(self, labels: Tensor | None, count: int) -> Tensor | None:
        """Return a class for each image; None for a student that has none."""
        classes = self.config.sampler["classes"]
        if not classes:
            if labels is not None:
                raise ValueError("this student has no classes; leave class_labels out")
            return None
        if labels is None:
            raise ValueError(f"this student has {classes} classes; give class_labels, from 0 to {classes - 1}")
        if bool((labels < 0).any()) or bool((labels >= classes).any()):
            raise ValueError(f"class_labels {labels.tolist()}: they go from 0 to {classes - 1}")
        if len(labels) not in (1, count):
            raise ValueError(f"{len(labels)} class_labels for {count} images; give one for each, or one for all")
        return labels.expand(count)


def _noise(name: str, shape: tuple[int, ...], given: Tensor | None, generator: Any, device: torch.device) -> Tensor:
    """Return standard normal noise, float32 on a device: as it was given, or drawn."""
    if given is None:
        drawn: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        return drawn
    if tuple(given.shape) != shape:
        raise ValueError(f"{name} of shape {tuple(given.shape)}; {shape} is needed")
    return given.to(device, torch.float32)


def _as_asked(images: Tensor, output_type: str) -> Any:
    """Return images in [-1, 1] as ``output_type`` says."""
    if output_type == "raw":
        return images
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(f"output_type {output_type!r}: it is pil, np, pt or raw")
    unit = (images / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return unit
    array = unit.cpu().permute(0, 2, 3, 1).numpy()
    if output_type == "np":
        return array
    if array.shape[-1] not in (1, 3):
        raise ValueError(f"{array.shape[-1]} channels are no picture; choose output_type raw, pt or np")
    return DiffusionPipeline.numpy_to_pil(array)
