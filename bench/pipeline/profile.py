"""Where the time goes on this machine: training, sampling and scoring against their network passes and the peak."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tractbench.config.fields import RunConfig
from tractbench.datasets.base import Dataset
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import load_process
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.inception import OPERATIONS
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.reference import BATCH
from tractbench.evaluation.sampling import sample
from tractbench.evaluation.scorer import make_scorer
from tractbench.method import Method
from tractbench.pipeline.counts import Counts, count, teacher_preset
from tractbench.pipeline.measure import Subject
from tractbench.pipeline.needs import STUDENT_BYTES
from tractbench.pipeline.profiles import (
    DeviceProfile,
    MemoryProfile,
    Profile,
    SampleProfile,
    ScoreProfile,
    TrainProfile,
)
from tractbench.pipeline.steps import StepParts
from tractbench.pipeline.timing import Work, interleaved, matrix_peak, median_ratio, seconds
from tractbench.progress import Progress
from tractbench.training.distillation import LOG_EVERY
from tractbench.training.numerics import sampled_in

TRAINING, SAMPLING = 20.0, 8.0
"""Seconds that the repetitions of each may take, beside the first calls."""

TRACED = 3
"""Training steps in a trace."""


def make_profile(
    config: RunConfig,
    method: Method,
    dataset: Dataset,
    device: str,
    progress: Progress,
    *,
    network: str | None = None,
    trace: Path | None = None,
) -> Profile:
    """Time a run's training step, its sampler and its scores, on random images and networks of random weights.

    Args:
        config: the run.
        method: its method.
        dataset: its data set; it need not be on this machine.
        device: cpu or cuda.
        progress: draws the bar.
        network: one of the data set's networks instead of the teacher's.
        trace: file of a Chrome trace of a few steps and one chunk of samples.

    Raises:
        ConfigError: there is no such network, or the trace cannot be written.
    """
    process = load_process(config.process, config.grid_steps)
    preset = dataset.network(network, config.process) if network else teacher_preset(config, dataset)
    subject = Subject(config, method, dataset, process, preset, device)
    counts, peak = count(preset), matrix_peak(device, config.precision)
    denoiser = subject.student()
    train, step = None, None
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    with progress.task("profiling", 3, "stage") as task:
        if method.trains:
            parts = StepParts(subject.distillation(config.batch))
            step = parts.run.train_step
            train = _train(parts, peak, counts)
            task.advance(1)
        sampled = _sample(subject, denoiser, counts, peak)
        task.advance(1)
        scored = _score(subject, denoiser, peak)
        task.advance(1)
    if trace is not None:
        chunk = _chunk(subject, denoiser)
        _trace(trace, [*repeat(step, TRACED), chunk] if step else [chunk], device)
    memory = MemoryProfile(
        peak=_peak_memory(device),
        kind="allocated on the device" if device.startswith("cuda") else "resident, the whole process",
        state=counts.parameters * (STUDENT_BYTES if method.trains else 4),
        activations=config.batch * (counts.activations_bf16 if config.precision == "bf16" else counts.activations)
        if method.trains
        else 0,
    )
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    return Profile(
        train, sampled, scored, memory, DeviceProfile(name, config.precision, peak),
        f"{preset.network}, {counts.parameters:,} parameters" if preset else "closed form",
    )  # fmt: skip


def _train(parts: StepParts, peak: float, counts: Counts) -> TrainProfile:
    works: dict[str, Work] = {"step": parts.run.train_step, "floor": parts.floor(), **parts.parts()}
    times = interleaved(works, parts.run.device, limit=TRAINING)
    medians = {name: statistics.median(found) for name, found in times.items()}
    step, floor = medians.pop("step"), medians.pop("floor")
    medians["logging"] /= LOG_EVERY
    medians["communication"] = 0.0
    asked, batch = parts.passes, parts.run.config.batch
    forwards = asked.self_teacher + asked.frozen + 1
    taught = counts.forward if parts.run.plan.network is None else 0
    operations = batch * (asked.teacher * taught + forwards * counts.forward + counts.backward)
    return TrainProfile(
        images_per_s=batch / step,
        step_seconds=step,
        floor_seconds=floor,
        ratio=median_ratio(times["step"], times["floor"]),
        flops_share=operations / step / peak,
        parts={**medians, "other": step - floor - sum(medians.values())},
    )


def _images(subject: Subject, denoiser: Denoiser, seed: int = 0) -> Iterator[Tensor]:
    config, dataset = subject.config, subject.dataset
    return sample(
        sampled_in(denoiser, config.precision, subject.device),
        subject.process,
        dataset.shape,
        seed,
        config.chunk,
        subject.method.sampler(config.nfe, subject.process),
        chunk=config.chunk,
        two_times=subject.method.two_times,
        classes=dataset.classes,
        clip=config.clip_sample,
        device=subject.device,
    )


def _chunk(subject: Subject, denoiser: Denoiser) -> Work:
    return lambda: next(_images(subject, denoiser))


def _sample(subject: Subject, denoiser: Denoiser, counts: Counts, peak: float) -> SampleProfile:
    config = subject.config
    asked = subject.method.sampler(config.nfe, subject.process).evaluations
    labels = subject.labels(config.chunk)
    x = torch.zeros(config.chunk, *subject.dataset.shape, dtype=torch.float64, device=subject.device)
    t = torch.full((config.chunk,), 0.5, dtype=torch.float64, device=subject.device)
    bare = sampled_in(denoiser, config.precision, subject.device)

    @torch.no_grad()
    def forward() -> None:
        bare(x, t, labels)

    works: dict[str, Work] = {"chunk": _chunk(subject, denoiser), "forward": forward}
    times = interleaved(works, subject.device, limit=SAMPLING)
    chunk = statistics.median(times["chunk"])
    return SampleProfile(
        images_per_s=config.chunk / chunk,
        seconds_per_evaluation=chunk / asked,
        ratio=median_ratio(times["chunk"], times["forward"]) / asked,
        flops_share=config.chunk * asked * counts.forward / chunk / peak,
    )


def _score(subject: Subject, denoiser: Denoiser, peak: float) -> ScoreProfile:
    config, dataset, protocol = subject.config, subject.dataset, load_protocol(subject.config.protocol)
    if protocol.inception:
        work = subject.scoring(BATCH)
        work()
        spent = min(seconds(work, subject.device) for _ in range(2))
        fp32 = peak if config.precision == "fp32" else matrix_peak(subject.device, "fp32")
        return ScoreProfile(BATCH / spent, spent, "Inception features", BATCH * OPERATIONS / spent / fp32)
    scorer = make_scorer(dataset, protocol, config.chunk, config.samples, device=subject.device)
    scorer.prepare()
    chunks = -(-config.samples // config.chunk)
    one = protocol.quantised(next(_images(subject, denoiser)), dataset)
    scorer.score([one] * chunks)  # computes the reference statistics
    spent = seconds(lambda: scorer.score([one] * chunks), subject.device)
    return ScoreProfile(chunks * config.chunk / spent, spent, "all scores of a sampling seed", None)


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _trace(path: Path, works: list[Work], device: str) -> None:
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * device.startswith("cuda")
    with profile(activities=activities) as found:
        for work in works:
            seconds(work, device)
    try:
        path.touch()
    except OSError as error:
        raise ConfigError(f"--trace {path}: {error.strerror}; give a file that can be written") from error
    found.export_chrome_trace(str(path))
