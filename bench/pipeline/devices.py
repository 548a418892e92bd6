"""Machines that a run can be planned for: a table of published figures, and this one, measured in under a second."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from tractbench.errors import ConfigError, nearest_name
from tractbench.pipeline.timing import matrix_peak
from tractbench.training.numerics import Precision

FILE = Path(__file__).with_suffix(".toml")

ASSUMED_SHARE = 0.4
"""Part of the peak that networks are taken to reach where nobody measured it."""

CPU_SHARE = 0.67
CPU_MEASURED = "measured on one x86 core with google-cifar10, forward and backward (tests/benchmarks/networks.py)"


class Device(BaseModel):
    """A device, or this machine's.

    Attributes:
        name: what it is.
        memory: in GB (10^9 bytes), 0 if nobody says.
        peak: TFLOP/s of dense matrix products by precision.
        source: where these come from.
        share: part of the peak that a run's networks reach.
        measured: on what the share was measured; "" for an assumption.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory: float
    peak: dict[Precision, float]
    source: str
    share: float = ASSUMED_SHARE
    measured: str = ""

    @property
    def share_source(self) -> str:
        """Where the share comes from, in words."""
        return self.measured or "an assumption, not measured"

    def speed(self, name: Precision) -> float:
        """Return the FLOP/s that a run's networks are taken to reach.

        Raises:
            ConfigError: the device has no units for the precision.
        """
        if name not in self.peak:
            raise ConfigError(f"{self.name} has no {name}; choose --precision {' or '.join(self.peak)}")
        return self.peak[name] * 1e12 * self.share


@cache
def devices() -> Mapping[str, Device]:
    """Return the table of devices by name."""
    written = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {name: Device.model_validate(device) for name, device in written.items()}


def parse_machine(text: str) -> tuple[str, int]:
    """Return the device's name and the number of them that ``8xh100``, ``a100`` or ``cpu`` stand for.

    Raises:
        ConfigError: it is not in the table.
    """
    found = re.fullmatch(r"\s*(?:([1-9]\d{0,4})\s*x\s*)?([a-z][a-z0-9-]*)\s*", text.lower())
    known = (*devices(), "cpu")
    if not found or found[2] not in known or (found[2] == "cpu" and found[1]):
        raise ConfigError(f"--on {text}: no machine of the table{nearest_name(text, known)}; write 8xh100, a100 or cpu")
    return found[2], int(found[1] or 1)


def this_machine(device: str, memory: int, *names: Precision) -> Device:
    """Measure this machine's matrix products.

    Args:
        device: cpu or cuda.
        memory: bytes that a run could have.
        names: the precisions to measure.
    """
    gpu = device.startswith("cuda")
    return Device(
        name=torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        memory=memory / 1e9,
        peak={name: matrix_peak(device, name) / 1e12 for name in names},
        source="the fastest square matrix product, measured now",
        share=ASSUMED_SHARE if gpu else CPU_SHARE,
        measured="" if gpu else CPU_MEASURED,
    )
