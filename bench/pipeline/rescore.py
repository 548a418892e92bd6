"""A finished run's samples, drawn again to be scored under another protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from tractbench.config.fields import RunConfig
from tractbench.diffusion.solvers import solver_steps
from tractbench.errors import DamagedFileError
from tractbench.evaluation.sample_set import SampleSet
from tractbench.evaluation.sampling import sample
from tractbench.pipeline.run import final_network
from tractbench.registry import load_dataset, load_method
from tractbench.results.record import Record
from tractbench.results.store import STUDENT
from tractbench.teachers.load import load_teacher
from tractbench.training.checkpoint import load_checkpoint


def run_samples(folder: Path, device: str, samples: int | None = None) -> tuple[SampleSet, RunConfig]:
    """Return the samples of a finished run as a set to be scored again, one sampling seed after the other.

    Args:
        folder: the run's folder, with its record and its student's weights.
        device: where the network runs.
        samples: images for each sampling seed instead of the run's.

    Raises:
        DamagedFileError: the record or the weights cannot be read, or do not belong together.
        ConfigError: the run's method, data or teacher is not on this machine.
    """
    path = folder / "record.json"
    try:
        record = Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{path} is not a run's record; give the folder of a finished run") from error
    config = record.config
    method = load_method(config.method).model_validate(config.options)
    dataset = load_dataset(config.dataset)
    teacher = load_teacher(config.teacher, dataset, config.process, config.grid_steps)
    denoiser = teacher.denoiser
    if method.trains:
        network = final_network(config, method, dataset, teacher)
        tensors, header = load_checkpoint(folder / STUDENT, "run it again with --force")
        if header["student"] != record.student:
            raise DamagedFileError(f"{folder / STUDENT} is another run's student; run it again with --force")
        network.load_state_dict(tensors)
        denoiser = network.to(device)
    elif isinstance(denoiser, nn.Module):
        denoiser = denoiser.to(device)
    count = samples or config.samples

    def read() -> Iterator[Tensor]:
        for seed in config.sampling_seeds:
            yield from sample(
                denoiser,
                teacher.process,
                dataset.shape,
                seed,
                count,
                solver_steps(method.sampler(), config.nfe),
                chunk=config.chunk,
                solver=method.sampler(),
                classes=dataset.classes,
                clip=config.clip_sample,
                device=device,
            )

    total = count * len(config.sampling_seeds)
    return SampleSet(f"run {record.identity[:12]}", total, dataset.shape, True, read), config
