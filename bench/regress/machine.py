"""What decides the bits of a tiny run: on two machines of one kind they are the same."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from tractbench.results.provenance import environment

ARITHMETIC = ("sse", "avx", "fma", "f16c", "amx", "asimd", "sve", "neon")
"""What the names of processor features begin with that libraries choose their kernels by."""


class Machine(BaseModel):
    """A kind of machine, as far as it decides how numbers are rounded.

    Attributes:
        processor: the processor's model.
        features: those of its features by which libraries choose kernels, sorted.
        vectors: the vector instructions that torch uses.
        system: operating system and architecture.
        packages: versions of the libraries that compute.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    features: str
    vectors: str
    system: str
    packages: dict[str, str]

    @classmethod
    def here(cls) -> Machine:
        """Return what this machine is."""
        return cls(
            processor=str(environment("cpu")["processor"]),
            features=_features(),
            vectors=torch.backends.cpu.get_cpu_capability(),
            system=f"{platform.system()} {platform.machine()}",
            packages={name: version(name) for name in ("torch", "numpy", "scipy")},
        )

    def differences(self, other: Machine) -> list[str]:
        """Return in what two kinds differ, by their fields' names."""
        return [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]


def _features() -> str:
    """Return the processor's features as Linux names them; elsewhere nobody says them, and its model has to do."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return ""
    for line in cpuinfo.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return " ".join(sorted(word for word in value.split() if word.startswith(ARITHMETIC)))
    return ""
