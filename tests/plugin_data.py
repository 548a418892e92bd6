"""Distributions as pip leaves them, on a path of their own."""

import textwrap

QUICK = ("--dataset", "digits", "--tier", "smoke", "--schedule", "16,4,1", "--budget", "1K", "--samples", "20")
QUICK += ("--sampling-seeds", "0", "--set", "chunk=10")
"""A run of seconds."""

METHOD = """
    from typing import ClassVar
    from tractbench.methods.tract import TRACT

    class Halfway(TRACT):
        name: ClassVar[str] = "half-way"
        summary: ClassVar[str] = "a method from elsewhere"
        strength: float = 0.5
"""
DATASET = """
    from typing import ClassVar
    import torch
    from tractbench.datasets.formats.mixture import Mixture

    class TwoDots(Mixture):
        name: ClassVar[str] = "two_dots"
        summary: ClassVar[str] = "two modes"
        shape: ClassVar[tuple[int, int, int]] = (2, 1, 1)

        def __init__(self):
            self.weights = torch.full((2,), 0.5, dtype=torch.float64)
            self.means = torch.tensor([[0.5, 0.0], [-0.5, 0.0]], dtype=torch.float64)
            self.covariances = 0.01 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
"""
EXTRACTOR = """
    from tractbench.evaluation.extractors.base import Extractor

    class Rows(Extractor):
        name = "row-means"
        hash = "row-means"

        def __call__(self, grey):
            return self.dataset.decode(grey).double().mean(-1).flatten(1)
"""
NETWORK = """
    from torch import nn

    class Thin(nn.Module):
        def __init__(self, channels, size, width):
            super().__init__()
            self.shape, pixels = (channels, size, size), channels * size * size
            self.layers = nn.Sequential(nn.Linear(pixels + 1, width), nn.SiLU(), nn.Linear(width, pixels))

        def initialise(self, generator):
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=0.1, generator=generator)

        def forward(self, x, noise_level, labels=None):
            import torch
            return self.layers(torch.cat([x.flatten(1), noise_level[:, None] / 20], 1)).reshape(x.shape)
"""
WORKLOAD = """
    dataset = "digits"

    [networks.thin-8]
    vp = { network = "thin-net", arguments = { width = 8 }, parameterisation = "x0" }
"""
PROCESS = """
    from pathlib import Path
    from typing import ClassVar
    from dataclasses import dataclass
    from tractbench.diffusion.processes import VP

    @dataclass(frozen=True, kw_only=True)
    class Short(VP):
        name: ClassVar[str] = "vp-short"
        log_snr_max: float = 10.0

    FILE = Path(__file__).with_name("work.toml")
"""
PROCESS_WORKLOAD = """
    dataset = "mixture2d"
    processes = ["vp-short"]
    teachers = { vp-short = "exact" }

    [networks.short-mlp]
    vp-short = { network = "mlp", arguments = { width = 8, blocks = 1, embedding = 4 }, parameterisation = "x0" }
"""


def distribution(folder, name, entries, **modules):
    """A distribution on disk, one package of the modules; ``entries`` are group, name and value of its entry points."""
    package = folder / name.replace("-", "_")
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    for module, source in modules.items():
        suffix = ".toml" if source in (WORKLOAD, PROCESS_WORKLOAD) else ".py"
        (package / module).with_suffix(suffix).write_text(textwrap.dedent(source))
    info = folder / f"{package.name}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = {}
    for group, entry, value in entries:
        groups.setdefault(group, []).append(f"{entry} = {value}")
    text = "".join(f"[tractbench.{group}]\n" + "\n".join(lines) + "\n\n" for group, lines in groups.items())
    (info / "entry_points.txt").write_text(text)
    return package
