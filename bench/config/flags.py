"""The settings that have a flag of their own, once for every verb that takes them; how the others are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tractbench.errors import ConfigError


@dataclass(frozen=True)
class Flag:
    """A flag: its type on the command line, and one line of help."""

    kind: type[str] | type[int] | type[float]
    help: str


FLAGS: Mapping[str, Flag] = {
    "method": Flag(str, "Method, such as tract or ddim (see 'list methods')."),
    "dataset": Flag(str, "Data set, such as digits (see 'list datasets')."),
    "nfe": Flag(int, "Network evaluations per image when sampling."),
    "tier": Flag(str, "Preset of the data set: how much evidence the run gives."),
    "schedule": Flag(str, "Steps before, between and after phases: 1024,32,1."),
    "budget": Flag(str, "Training images over all phases: 512K, 96M (K = 1,024)."),
    "seed": Flag(int, "Training seed."),
    "sampling_seeds": Flag(str, "Sampling seeds: 0,1,2 or 0-4."),
    "samples": Flag(int, "Images for each sampling seed."),
    "mu_s": Flag(float, "Self-teacher momentum."),
    "mu_i": Flag(float, "Inference momentum; else from the EMA residual."),
    "batch": Flag(int, "Images in one training step."),
    "lr": Flag(float, "Learning rate."),
    "precision": Flag(str, "Arithmetic of the networks: fp32, tf32 or bf16."),
    "process": Flag(str, "Diffusion process of the teacher."),
    "teacher": Flag(str, "Teacher: a name (see 'teacher list') or the path of a card (.toml)."),
    "protocol": Flag(str, "Evaluation protocol instead of the data set's own."),
}
"""By the name of the field in :class:`tractbench.config.fields.RunConfig`, in the order that help shows them."""


def parse_settings(pairs: list[str]) -> dict[str, object]:
    """Parse KEY=VALUE pairs; a value is TOML if it reads as such (1e-3, true, [1024, 1]), else text."""
    import tomllib

    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: it has no '='; give KEY=VALUE, such as loss_weight=uniform")
        try:
            settings[key.strip().replace("-", "_")] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip().replace("-", "_")] = value.strip()
    return settings
