"""Pictures of samples hold the samples."""

import numpy as np
import pytest
import torch
from PIL import Image

from tractbench.results.pictures import FONT, PANEL, Plane, save_grid, save_mosaic, save_plane


@pytest.mark.parametrize(("channels", "size", "count"), [(1, 8, 36), (3, 8, 7), (3, 64, 12)])
def test_panels_are_the_mosaics_enlarged_side_by_side_below_their_titles(tmp_path, channels, size, count):
    images = 2 * torch.rand((3, count, channels, size, size), generator=torch.Generator().manual_seed(0)) - 1
    titles = ["teacher, 1024 steps", "teacher, 1 step", "a method whose name is " + "long " * 20]
    save_grid(tmp_path / "grid.png", dict(zip(titles, images, strict=True)), 6)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.ndim == (2 if channels == 1 else 3)
    panels = []
    for place, panel in enumerate(images):
        save_mosaic(tmp_path / f"{place}.png", panel, 6)
        panels.append(np.asarray(Image.open(tmp_path / f"{place}.png")))
    scale = max(1, PANEL // panels[0].shape[1])
    height, width = (scale * extent for extent in panels[0].shape[:2])
    slot = (picture.shape[1] - 4 * FONT) // 3
    assert slot >= width
    for place, panel in enumerate(panels):
        left = FONT + place * (slot + FONT) + (slot - width) // 2
        shown = picture[2 * FONT : 2 * FONT + height, left : left + width]
        assert np.array_equal(shown, panel.repeat(scale, 0).repeat(scale, 1))
        title = picture[: 2 * FONT, FONT + place * (slot + FONT) : FONT + place * (slot + FONT) + slot]
        assert title.min() < 100
    assert picture[2 * FONT + height :].min() == 255


def test_a_plane_shows_each_path_and_where_it_ends(tmp_path):
    points = torch.tensor([[-2.0, -2.0], [2.0, 2.0]])
    path = torch.tensor([[-1.0, 1.0], [0.0, 1.0], [0.0, -1.0]])[:, None]
    save_plane(tmp_path / "plane.png", {"with": Plane(points, path), "without": Plane(points, path[:, :0])}, None)
    pixels = np.asarray(Image.open(tmp_path / "plane.png").convert("RGB")).astype(int)
    rows, columns = ((pixels[..., 0] - pixels[..., 1]) > 60).nonzero()  # red
    assert columns.max() < pixels.shape[1] / 2
    left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    assert rows[columns == left].max() < top + 8  # along the top from the left, then down at the right, twice as far
    assert columns[rows > top + 8].min() > right - 8
    assert (bottom - top) / (right - left) == pytest.approx(2, rel=0.1)
    widths = [np.ptp(columns[rows == row]) for row in range(top + 8, bottom)]
    assert np.argmax(widths) > len(widths) - 8  # a dot where it ends
