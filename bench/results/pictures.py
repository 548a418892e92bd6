"""Pictures of samples side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tractbench.io.files import write_atomic

FONT, PANEL = 22, 480
"""Pixels of a title's letters, and the width up to which a panel of small images is enlarged."""


def save_grid(path: Path, panels: Mapping[str, Tensor], columns: int) -> None:
    """Draw panels of images from the same noise, the same noise in the same place of each, as a PNG.

    Args:
        path: the file.
        panels: title -> images ``[N, C, H, W]`` in [-1, 1], C 1 or 3.
        columns: images in a row of a panel.
    """
    font = ImageFont.load_default(size=FONT)
    mosaics = [Image.fromarray(_pixels(images, columns)) for images in panels.values()]
    scale = max(1, PANEL // max(one.width for one in mosaics))
    tiles = [one.resize((scale * one.width, scale * one.height), Image.Resampling.NEAREST) for one in mosaics]
    width = round(max(*(tile.width for tile in tiles), *(font.getlength(title) for title in panels)))
    height = max(tile.height for tile in tiles)
    size = (len(tiles) * width + (len(tiles) + 1) * FONT, height + 3 * FONT)
    picture = Image.new(tiles[0].mode, size, "white")
    for place, (title, tile) in enumerate(zip(panels, tiles, strict=True)):
        left = FONT + place * (width + FONT)
        ImageDraw.Draw(picture).text((left + width / 2, FONT), title, fill="black", font=font, anchor="mm")
        picture.paste(tile, (left + (width - tile.width) // 2, 2 * FONT))
    write_atomic(path, lambda temporary: picture.save(temporary, format="png"))


def save_mosaic(path: Path, images: Tensor, columns: int) -> None:
    """Write images ``[N, C, H, W]`` in [-1, 1] as one PNG, pixel for pixel, laid out as in :func:`save_grid`."""
    picture = Image.fromarray(_pixels(images, columns))
    write_atomic(path, lambda temporary: picture.save(temporary, format="png"))


def _pixels(images: Tensor, columns: int) -> NDArray[np.uint8]:
    """Lay images out in rows with a one-pixel white gap, ``[H, W]`` or ``[H, W, 3]``."""
    unit = (images.float().clamp(-1, 1) + 1) / 2
    rows = -(-len(unit) // columns)
    _, channels, height, width = unit.shape
    canvas = torch.ones(channels, rows * (height + 1) - 1, columns * (width + 1) - 1)
    for index, image in enumerate(unit):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[:, top : top + height, left : left + width] = image
    levels = (canvas[0] if channels == 1 else canvas.permute(1, 2, 0)) * 255
    pixels: NDArray[np.uint8] = levels.round().to(torch.uint8).numpy()
    return pixels


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
    from matplotlib.collections import LineCollection
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
        solutions = plane.paths.transpose(0, 1).numpy()
        axes.add_collection(LineCollection(list(solutions), colors="tab:red", linewidths=0.7, alpha=0.8))
        axes.scatter(*plane.paths[-1].T.numpy(), s=6, color="tab:red")
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=11)
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png"))
