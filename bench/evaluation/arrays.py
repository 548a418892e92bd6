"""Sets of samples that are arrays: which array, in which layout, and what its numbers stand for.

What a file leaves open is asked, never guessed: floats of which hardly any is below 0 are not taken for ones in
[-1, 1], nor one of two arrays of images for the samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tractbench.errors import ConfigError, nearest_name
from tractbench.evaluation.array_files import Array
from tractbench.evaluation.sample_set import CHANNELS, Layout, Range, Reading, SampleSet

WRITTEN: dict[Layout, str] = {"nchw": "[N, C, H, W]", "nhwc": "[N, H, W, C]"}

CLEARLY_NEGATIVE = -0.1
FEWEST_NEGATIVE = 0.01
"""Where fewer of all floats are below -0.1, they may be ones in [0, 1] that undershoot."""

TOP = 255


def choose_array(arrays: Sequence[Array], reading: Reading, usual: Layout) -> Array:
    """Return the array of samples in a file: the only one, the one that is asked for, or the only one of images.

    Args:
        arrays: all arrays of one file.
        reading: what the user says.
        usual: the layout that the file's kind usually has, for messages.

    Raises:
        ConfigError: there is none, or several and no ``key``.
    """
    file = arrays[0].file
    if reading.key is not None:
        names = [array.name for array in arrays]
        if reading.key not in names:
            raise ConfigError(f"{file} has no array {reading.key!r}{nearest_name(reading.key, names)}")
        return arrays[names.index(reading.key)]
    fitting = [array for array in arrays if _layouts(array) or _points(array, reading)]
    if len(fitting) > 1:
        names = [array.name for array in fitting]
        raise ConfigError(f"{file} holds {len(fitting)} arrays of images: {', '.join(names)}; choose one with --key")
    if not fitting and len(arrays) > 1:
        shapes = ", ".join(f"{array.name} {list(array.shape)}" for array in arrays[:4])
        raise ConfigError(f"{file} holds no array of images: {shapes}; save the samples as {WRITTEN[usual]}")
    return (fitting or arrays)[0]


def array_set(chosen: Sequence[Array], reading: Reading, usual: Layout, source: str) -> SampleSet:
    """Make a set of one array, or of several shards of it.

    Floats are looked through once, as their range says what they are.

    Raises:
        ConfigError: it is of no kind that samples have, or of several; the message says what to save or to say.
    """
    first = chosen[0]
    for array in chosen:
        if array.kind == "other":
            raise ConfigError(f"{_where(array)} holds {array.dtype}; save uint8 grey levels, or floats in [-1, 1]")
        if (array.shape[1:], array.kind) != (first.shape[1:], first.kind):
            raise ConfigError(
                f"{array.file} holds {list(array.shape)} {array.kind}, {first.file} {list(first.shape)} {first.kind}; "
                "give shards of one set"
            )
    count = sum(array.shape[0] for array in chosen) if first.shape else 0
    named = [f"array '{first.name}'"] if first.name and len(chosen) == 1 else []
    if _points(first, reading):
        return _point_set(chosen, count, source, named)
    layout = _layout(first, reading, usual)
    _, *axes = first.shape
    channels, height, width = axes if layout == "nchw" else (axes[2], axes[0], axes[1])
    shape = channels, height, width
    notes = [*named, f"read as {WRITTEN[layout]}"]
    if first.kind == "integers":
        notes += [f"{first.dtype} taken for grey levels"] * (first.dtype not in ("uint8", "torch.uint8"))
        return SampleSet(source, count, shape, False, lambda: _levels(chosen, layout), tuple(notes))
    values = _checked_range(chosen, count, reading.values)
    notes.append("floats in [0, 1], scaled to [-1, 1]" if values == "unit" else "floats in [-1, 1]")
    return SampleSet(source, count, shape, True, lambda: _floats(chosen, layout, values), tuple(notes))


def _where(array: Array) -> str:
    return f"{array.file}" + f": {array.name}" * bool(array.name)


def _points(array: Array, reading: Reading) -> bool:
    return reading.points is not None and array.shape[1:] in ((reading.points,), (reading.points, 1, 1))


def _layouts(array: Array) -> list[Layout]:
    """Return the layouts in which an array can be images."""
    if len(array.shape) != 4 or min(array.shape[1:]) < 1:
        return []
    known = CHANNELS.values()
    axes: tuple[tuple[Layout, int], ...] = (("nchw", 1), ("nhwc", 3))
    return [layout for layout, axis in axes if array.shape[axis] in known]


def _layout(array: Array, reading: Reading, usual: Layout) -> Layout:
    possible = _layouts(array)
    what = f"{_where(array)} is {'a tensor ' * (usual == 'nchw')}{list(array.shape)}"
    if not possible and reading.points is not None:
        raise ConfigError(f"{what}; save points as [N, {reading.points}]")
    if not possible:
        raise ConfigError(f"{what}; save the samples as {WRITTEN[usual]}, C 3 or 1")
    if reading.layout is not None:
        if reading.layout not in possible:
            raise ConfigError(f"{what}, which is not {WRITTEN[reading.layout]}; leave --layout out")
        return reading.layout
    if len(possible) > 1:
        raise ConfigError(f"{what}, which may be [N, C, H, W] or [N, H, W, C]; say --layout nchw or nhwc")
    return possible[0]


def _point_set(chosen: Sequence[Array], count: int, source: str, named: list[str]) -> SampleSet:
    if chosen[0].kind != "floats":
        raise ConfigError(f"{_where(chosen[0])} holds {chosen[0].dtype}; save points as floats")

    def read() -> Iterator[Tensor]:
        for array in chosen:
            for rows in array.rows():
                points = _at_least_single(rows).flatten(1)
                if not points.isfinite().all():
                    raise _not_finite(array)
                yield points[:, :, None, None]

    return SampleSet(source, count, (chosen[0].shape[1], 1, 1), True, read, (*named, "points as they are"))


def _rows(chosen: Sequence[Array], layout: Layout) -> Iterator[tuple[Array, Tensor]]:
    for array in chosen:
        for rows in array.rows():
            yield array, rows if layout == "nchw" else rows.permute(0, 3, 1, 2).contiguous()


def _levels(chosen: Sequence[Array], layout: Layout) -> Iterator[Tensor]:
    for array, rows in _rows(chosen, layout):
        if rows.dtype != torch.uint8 and len(rows) and (int(rows.min()) < 0 or int(rows.max()) > TOP):
            raise ConfigError(f"{_where(array)} holds {array.dtype} outside of 0 to {TOP}; save uint8 grey levels")
        yield rows.to(torch.uint8)


def _floats(chosen: Sequence[Array], layout: Layout, values: Range) -> Iterator[Tensor]:
    for _, rows in _rows(chosen, layout):
        images = _at_least_single(rows)
        yield images.clamp(0, 1) * 2 - 1 if values == "unit" else images


def _at_least_single(rows: Tensor) -> Tensor:
    # half of 255 levels is no step of bfloat16 nor everywhere of float16: what is computed of them, is in float32
    return rows.float() if rows.element_size() < 4 else rows


def _not_finite(array: Array) -> ConfigError:
    return ConfigError(f"{_where(array)} holds values that are not finite; leave those samples out")


def _checked_range(chosen: Sequence[Array], count: int, said: Range | None) -> Range:
    """Return what floats stand for, ``signed`` or ``unit``."""
    low, high, negative, total = math.inf, -math.inf, 0, 0
    for array in chosen:
        for rows in array.rows():
            batch = _at_least_single(rows)
            if not batch.isfinite().all():
                raise _not_finite(array)
            low, high = min(low, float(batch.min())), max(high, float(batch.max()))
            negative, total = negative + int((batch < CLEARLY_NEGATIVE).sum()), total + batch.numel()
    found = f"{_where(chosen[0])} holds floats from {low:.4g} to {high:.4g}"
    if not count:
        return "signed"
    if said == "levels":
        raise ConfigError(f"{found}; save grey levels as uint8")
    unit = low >= CLEARLY_NEGATIVE and high <= 1 - CLEARLY_NEGATIVE  # though it may overshoot at both ends
    if said == "unit":
        if not unit:
            raise ConfigError(f"{found}, which are not in [0, 1]; leave --range out")
        return "unit"
    if not unit and (low < -1 or high > 1):
        raise ConfigError(f"{found}; clip them to [-1, 1], or save grey levels as uint8")
    if (high > 1 or negative < FEWEST_NEGATIVE * total) and not (said == "signed" and high <= 1):
        raise ConfigError(
            f"{found}, hardly any below 0; if they are in [0, 1], scale them to [-1, 1] by 2 x - 1 or say --range "
            "unit; if they are in [-1, 1], say --range signed"
        )
    return "signed"
