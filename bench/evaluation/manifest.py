"""What an evaluation was made with: a number without it is nobody's figure."""

from __future__ import annotations

from importlib.metadata import version

from pydantic import BaseModel, ConfigDict

PACKAGES = ("tractbench", "torch", "numpy", "torch-fidelity")


class Basis(BaseModel):
    """What a scorer compares with.

    Attributes:
        weights: sha256 of each feature network's weights, by its name.
        verified: whether they are the published ones; if not, no score is a FID.
        statistics: where the reference statistics come from.
        reference_images: how many images they are of, None if nobody says.
        reference_hash: sha256 of the data, the weights and the protocol.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: dict[str, str]
    verified: bool
    statistics: str
    reference_images: int | None
    reference_hash: str


class Manifest(BaseModel):
    """Everything that decides the scores of one evaluation.

    Attributes:
        protocol: its name.
        dataset: the data's name.
        resize: how images reached the network's size.
        quantise: how floats became grey levels, or ``given`` where the samples were grey levels already.
        reported: which number over the sets a table quotes.
        basis: what was compared with.
        images: sha256 of all grey levels in order.
        source: where the samples came from.
        samples: images in one set.
        sets: number of sets, each scored apart.
        protocol_sets: how many the protocol has, None where the tier decides.
        labels: how the samples' classes were chosen.
        seeds: sampling seeds, empty if unknown.
        versions: of the packages that computed it.
        deviations: what differs from the protocol; with any, the scores are not figures under it.
        notes: what of the samples' files was chosen, passed over, converted or assumed.
        doubts: what about samples or scores cannot be as it should.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str
    dataset: str
    resize: str
    quantise: str
    reported: str
    basis: Basis
    images: str
    source: str
    samples: int
    sets: int
    protocol_sets: int | None
    labels: str
    seeds: tuple[int, ...]
    versions: dict[str, str]
    deviations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def versions() -> dict[str, str]:
    """Return the versions of what computes scores."""
    return {name: version(name) for name in PACKAGES}
