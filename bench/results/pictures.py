"""Pictures of samples side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tractbench.io.files import write_atomic


def save_grid(path: Path, panels: Mapping[str, Tensor], columns: int) -> None:
    """Draw panels of images from the same noise, the same noise in the same place of each, as a PNG.

    Args:
        path: the file.
        panels: title -> images ``[N, C, H, W]`` in [-1, 1], C 1 or 3.
        columns: images in a row of a panel.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(panels), 3.5), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, images) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.imshow(_mosaic(images, columns).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))


def save_mosaic(path: Path, images: Tensor, columns: int) -> None:
    """Write images ``[N, C, H, W]`` in [-1, 1] as one PNG, pixel for pixel, laid out as in :func:`save_grid`."""
    pixels = (_mosaic(images, columns) * 255).round().to(torch.uint8).cpu().numpy()
    write_atomic(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="png"))


def _mosaic(images: Tensor, columns: int) -> Tensor:
    """Lay images out in rows with a one-pixel white gap, ``[H, W]`` or ``[H, W, 3]`` in [0, 1]."""
    unit = (images.float().clamp(-1, 1) + 1) / 2
    rows = -(-len(unit) // columns)
    _, channels, height, width = unit.shape
    canvas = torch.ones(channels, rows * (height + 1) - 1, columns * (width + 1) - 1)
    for index, image in enumerate(unit):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[:, top : top + height, left : left + width] = image
    return canvas[0] if channels == 1 else canvas.permute(1, 2, 0)


@dataclass(frozen=True)
class Plane:
    """Samples ``[N, 2]``, and the states ``[steps + 1, paths, 2]`` of some solutions from noise to sample."""

    points: Tensor
    paths: Tensor


def save_plane(path: Path, panels: Mapping[str, Plane], density: Callable[[Tensor], Tensor] | None) -> None:
    """Draw samples in the plane over the true density, with the solver's paths, as a PNG.

    Args:
        path: the file.
        panels: title -> samples and paths.
        density: the true density at points ``[N, 2]``; None leaves it out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(panels), 3.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    low = min(float(plane.points.quantile(0.001)) for plane in panels.values()) - 0.2
    high = max(float(plane.points.quantile(0.999)) for plane in panels.values()) + 0.2
    low, high = max(low, -3.0), min(high, 3.0)
    for axes, (title, plane) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        if density is not None:
            line = torch.linspace(low, high, 200, dtype=torch.float64)
            y, x = torch.meshgrid(line, line, indexing="ij")
            height = density(torch.stack([x.flatten(), y.flatten()], dim=1)).reshape(x.shape)
            axes.imshow(height.numpy(), extent=(low, high, low, high), origin="lower", cmap="Blues")
        axes.scatter(*plane.points.T.numpy(), s=1.5, color="black", alpha=0.35, linewidths=0)
        for solution in plane.paths.transpose(0, 1).numpy():
            axes.plot(solution[:, 0], solution[:, 1], color="tab:red", linewidth=0.7, alpha=0.8)
            axes.plot(*solution[-1], marker="o", markersize=2.5, color="tab:red")
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=11)
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))
