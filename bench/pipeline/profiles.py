"""What a profile says: rates, ratios to the network passes, shares of the device's peak."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainProfile:
    """A training step.

    Attributes:
        images_per_s: training images.
        step_seconds: median of the step.
        floor_seconds: median of its network passes alone, on the same batch in the same precision.
        ratio: median over rounds of the two, timed in turn.
        flops_share: operations of the passes over the step's time, as a share of the device's matrix-product peak.
        parts: seconds of what a step does beside its passes, each timed alone; "other" is the rest, and "communication"
            is 0 in one process.
    """

    images_per_s: float
    step_seconds: float
    floor_seconds: float
    ratio: float
    flops_share: float
    parts: dict[str, float]


@dataclass(frozen=True)
class SampleProfile:
    """Sampling one chunk.

    Attributes:
        images_per_s: images.
        seconds_per_evaluation: of one chunk.
        ratio: median over rounds of its time to that of its evaluations alone, timed in turn.
        flops_share: operations of the passes over the time, as a share of the peak.
    """

    images_per_s: float
    seconds_per_evaluation: float
    ratio: float
    flops_share: float


@dataclass(frozen=True)
class ScoreProfile:
    """Scoring: Inception features, or all scores of one sampling seed where the data have their own.

    Attributes:
        images_per_s: images.
        seconds: of all the images that were scored.
        what: what was timed.
        flops_share: of the Inception network; None for other scores.
    """

    images_per_s: float
    seconds: float
    what: str
    flops_share: float | None


@dataclass(frozen=True)
class MemoryProfile:
    """Memory.

    Attributes:
        peak: bytes that were held at most: allocated on a GPU, or resident in the whole process.
        kind: which of the two.
        state: bytes of weights, averages and optimiser.
        activations: bytes that a step keeps for its backward pass, counted.
    """

    peak: int
    kind: str
    state: int
    activations: int


@dataclass(frozen=True)
class DeviceProfile:
    """The device, its precision and the FLOP/s of its fastest matrix product in it."""

    name: str
    precision: str
    peak_flops: float
    processes: int = 1


@dataclass(frozen=True)
class Profile:
    """What a run does with this machine; ``train`` is None where nothing is trained.

    Attributes:
        network: the architecture, whose weights were random.
    """

    train: TrainProfile | None
    sample: SampleProfile
    score: ScoreProfile
    memory: MemoryProfile
    device: DeviceProfile
    network: str
