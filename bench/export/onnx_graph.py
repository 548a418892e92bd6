"""The format ``onnx``: the whole sampler as one graph, or the network alone where the sampler takes many evaluations."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tractbench.errors import ConfigError
from tractbench.export.exported import Exported

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Raise ConfigError if a package is missing that the graph is made or checked with."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx: {missing[0]} is not installed; pip install {' '.join(missing)}")


def write_onnx(found: Exported, folder: Path) -> None:
    """Write the graph and ``sampler.json``."""
    raise NotImplementedError
