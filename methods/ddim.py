"""DDIM (Song et al. 2021): the teacher itself in few steps, the baseline of every distillation."""

from __future__ import annotations

from typing import ClassVar

from tractbench.method import Method


class DDIM(Method):
    """Samples the teacher with as many equal steps as evaluations; nothing is trained."""

    name: ClassVar[str] = "ddim"
    summary: ClassVar[str] = "the teacher sampled in few DDIM steps, without distillation"
    trains: ClassVar[bool] = False
