"""The format ``safetensors``: weights, and a JSON file that says what they are and how they are sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from tractbench.export.exported import Exported
from tractbench.io.tensors import save_plain

CONFIG = "config.json"


def write_safetensors(found: Exported, folder: Path) -> None:
    """Write ``model.safetensors``, its names those of the network's published weights if any, and ``config.json``."""
    save_network(found.network, folder / "model.safetensors")
    write_json(folder / CONFIG, found.config())


def save_network(network: nn.Module, path: Path, prefix: str = "") -> None:
    """Write a network's weights, their names preceded by a prefix."""
    tensors = {f"{prefix}{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_plain(path, tensors, {"format": "pt"})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON that people may read: one line for each entry of a list of objects."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
