"""What a result was made with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tractbench.training.numerics import flags

PACKAGES = (
    "tractbench", "torch", "torchvision", "torch-fidelity", "numpy", "scipy", "pydantic", "safetensors", "scikit-learn",
    "pillow", "accelerate",
)  # fmt: skip
"""Distributions whose version can move a number or the file that holds it."""


def environment(device: str) -> dict[str, object]:
    """Return versions, hardware, numeric settings and the state of the code, as plain JSON values.

    Args:
        device: what networks run on; of a GPU its name, number, driver and libraries are there too.
    """
    on_gpu = device.startswith("cuda")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(torch.device(device)) if on_gpu else "cpu",
        "gpu": _gpu() if on_gpu else None,
        "numerics": numerics(),
        "code": _code_state(Path(__file__).parent),
    }


def numerics() -> dict[str, object]:
    """Return torch's global settings that decide how numbers are rounded and which kernels run."""
    cudnn = torch.backends.cudnn
    return flags() | {
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def _gpu() -> dict[str, object]:
    count = torch.cuda.device_count()
    return {
        "names": [torch.cuda.get_device_name(index) for index in range(count)],
        "count": count,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def _driver() -> str | None:
    try:
        said = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    except (OSError, subprocess.SubprocessError):
        return None
    return said.split("\n")[0].strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _code_state(folder: Path) -> dict[str, object] | None:
    """Return commit and dirtiness of the source checkout that runs, None for an installed package."""
    if "site-packages" in folder.parts:
        return None
    git = ("git", "-C", str(folder))
    try:
        commit = _output(*git, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_output(*git, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603
