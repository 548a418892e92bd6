"""How budgets and lists of whole numbers are written and read."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator


def parse_budget(value: object) -> object:
    """Parse a number of training images: ``512K`` is 512 * 2^10, ``96M`` is 96 * 2^20; anything else passes through."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+)\s*([KkMm]?)\s*", value)
    if not match:
        raise ValueError("a budget is a whole number of images with an optional K (2^10) or M (2^20); try 512K")
    return int(match[1]) << {"": 0, "K": 10, "M": 20}[match[2].upper()]


def parse_integers(value: object) -> object:
    """Parse ``1024,32,1`` or a range ``0-4`` into a tuple of integers; anything else passes through."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d{1,12})\s*(?:-\s*(\d{1,12})\s*)?", part)
        if not match or (match[2] and not 0 <= int(match[2]) - int(match[1]) < 10_000):
            raise ValueError("give whole numbers separated by commas, such as 1024,32,1, or a range such as 0-4")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(numbers)


def format_budget(images: int) -> str:
    """Write a number of images with the suffix that :func:`parse_budget` reads."""
    for shift, suffix in ((20, "M"), (10, "K")):
        if images and images % (1 << shift) == 0:
            return f"{images >> shift}{suffix}"
    return str(images)


Integers = Annotated[tuple[int, ...], BeforeValidator(parse_integers)]
Budget = Annotated[int, BeforeValidator(parse_budget)]
