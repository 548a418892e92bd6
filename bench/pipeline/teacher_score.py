"""How a teacher is sampled to be compared with what is reported of it: as its authors do, as far as that is known."""

from __future__ import annotations

from pathlib import Path

from tractbench.diffusion.processes import load_process
from tractbench.evaluation.protocols import load_protocol
from tractbench.registry import load_dataset
from tractbench.teachers.card import TeacherCard
from tractbench.teachers.reported import Reported


def scoring_settings(
    name: str,
    card: TeacherCard,
    reported: Reported | None,
    *,
    protocol: str | None = None,
    samples: int | None = None,
    dataset: str | None = None,
) -> dict[str, object]:
    """Return the settings of the run that samples and scores a teacher itself.

    Without a figure that can be sampled here it is the sampler that students learn from: DDIM in 1,024 steps for a VP
    teacher, Heun's method on EDM's 40 noise levels (79 evaluations) for a VE teacher.

    Args:
        name: what the user calls the teacher.
        card: its card.
        reported: the figure, if there is one.
        protocol: another protocol than the figure's, or the data set's.
        samples: another number of samples in a set.
        dataset: another variant of the data set.

    Raises:
        ConfigError: an unknown protocol or data set.
    """
    data = load_dataset(dataset or (reported and reported.dataset) or card.dataset)
    chosen = load_protocol(protocol or (reported and reported.protocol) or data.workload.protocol)
    seeds = chosen.seeds or (reported.runs if reported else None)
    settings: dict[str, object] = {
        "method": "ddim",
        "dataset": data.name,
        "process": card.process,
        "teacher": str(Path(name).absolute()) if name.endswith(".toml") else name,
        "protocol": chosen.name,
        "samples": samples or chosen.samples or (reported.samples if reported else None),
        "sampling_seeds": tuple(range(seeds)) if seeds else None,
    }
    if reported and not reported.cannot:
        return settings | {"nfe": reported.nfe, **reported.settings}
    process = load_process(card.process)
    heun = "heun" in process.solvers
    steps = process.default_steps
    return settings | {"nfe": 2 * steps - 1 if heun else steps, "solver": "heun" if heun else None}
