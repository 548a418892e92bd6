"""A picture of samples side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tractbench.files import write_atomic


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


def _mosaic(images: Tensor, columns: int) -> Tensor:
    """Lay images out in rows with a one-pixel white gap, ``[H, W]`` or ``[H, W, 3]`` in [0, 1]."""
    import torch

    unit = (images.float().clamp(-1, 1) + 1) / 2
    rows = -(-len(unit) // columns)
    _, channels, height, width = unit.shape
    canvas = torch.ones(channels, rows * (height + 1) - 1, columns * (width + 1) - 1)
    for index, image in enumerate(unit):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[:, top : top + height, left : left + width] = image
    return canvas[0] if channels == 1 else canvas.permute(1, 2, 0)
