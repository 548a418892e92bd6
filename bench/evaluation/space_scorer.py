"""Scores in more feature spaces than a protocol's own, and by nearest neighbours in all of them, in the same pass.

``fd_NAME`` is the Frechet distance to the training images in an extractor's features, ``mmd_clip`` the discrepancy that
CMMD is; ``density_NAME``, ``coverage_NAME``, ``authenticity_NAME`` and ``ct_NAME`` are those of
:mod:`tractbench.evaluation.neighbours`. Single images are compared with at most 50,000 training images, evenly spaced.
The protocol's own scores are computed as they are without these, to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tractbench.config.identity import SCORING_VERSION
from tractbench.datasets.base import Dataset
from tractbench.evaluation.extractors.base import Extractor, load_extractor
from tractbench.evaluation.frechet import RunningMoments, frechet_distance
from tractbench.evaluation.inception_scorer import InceptionScorer
from tractbench.evaluation.manifest import Basis
from tractbench.evaluation.mmd import discrepancy
from tractbench.evaluation.neighbours import CELLS, FEWEST, REACHED
from tractbench.evaluation.part import Part, merged
from tractbench.evaluation.protocols import NEIGHBOUR_METRICS, Protocol
from tractbench.evaluation.reference import Reference, feature_reference, regrouped, statistics_key
from tractbench.evaluation.spaces import Space
from tractbench.io.canonical import canonical
from tractbench.plugins import plugin_hashes
from tractbench.progress import Progress
from tractbench.training.parallel import ALONE, Group

if TYPE_CHECKING:
    from tractbench.evaluation.scorer import Scorer


class SpaceScorer:
    """Scores images as another scorer does, and in more feature spaces.

    Args:
        main: computes the scores of the protocol's core, in its own feature spaces.
        dataset: the data.
        protocol: the protocol; its additions' metrics are what is computed here.
        device: where networks run.
        progress: draws what is done before the first score.

    Raises:
        ConfigError: there is no such extractor, or it is not for these data.
    """

    def __init__(
        self,
        main: Scorer,
        dataset: Dataset,
        protocol: Protocol,
        *,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self._main, self._device, self._progress = main, device, progress or Progress()
        self._dataset, self._wanted = dataset, frozenset(protocol.added)
        self.protocol = protocol.model_copy(update={"metrics": (*main.protocol.metrics, *protocol.added)})
        self.together = main.together
        names = protocol.spaces if protocol.inception else (*protocol.own_spaces, *protocol.spaces)
        self._extractors: Mapping[str, Extractor] = {name: load_extractor(name, dataset) for name in sorted(names)}
        self._spaces = {name: self._space(name, extractor) for name, extractor in self._extractors.items()}
        if isinstance(main, InceptionScorer) and protocol.neighbours:
            self._spaces["inception"] = self._inception(main)
        self._shifts: dict[str, Tensor] = {}
        hashes = {name: extractor.hash for name, extractor in self._extractors.items()}
        parts = [main.reference_hash, sorted(self._wanted), hashes, [REACHED, CELLS, FEWEST] * protocol.neighbours]
        parts += plugin_hashes(*map(type, self._extractors.values()))
        self.reference_hash = hashlib.sha256(canonical(parts).encode()).hexdigest()

    def _space(self, name: str, extractor: Extractor) -> Space:
        data = self._dataset
        parts = [SCORING_VERSION, name, extractor.hash, plugin_hashes(type(extractor)), data.fingerprint]
        key = hashlib.sha256(canonical([*parts, data.training_images]).encode()).hexdigest()

        def load() -> Reference:
            return feature_reference(data, key, extractor, self._progress, name)

        return Space(name, key, extractor, load, data, self._progress)

    def _inception(self, main: InceptionScorer) -> Space:
        resize, data = main.protocol.resize, self._dataset
        key = statistics_key(data, resize, main.basis.weights["inception"])

        def extract(images: Tensor) -> Tensor:
            return main.network(images, resize).pool

        return Space("inception", key, extract, lambda: main.reference, data, self._progress)

    @property
    def floors(self) -> dict[str, float]:
        """What real data nothing was trained on score, where somebody computes it."""
        own = {
            f"{metric}_{name}": value
            for name, space in self._spaces.items()
            if self._near(name)
            for metric, value in space.floors.items()
        }
        return self._main.floors | {name: value for name, value in own.items() if name in self._wanted}

    @property
    def basis(self) -> Basis:
        """What the scores depend on besides the samples."""
        main = self._main.basis
        weights = {name: extractor.hash for name, extractor in self._extractors.items()}
        return main.model_copy(update={"weights": main.weights | weights, "reference_hash": self.reference_hash})

    def _near(self, space: str) -> bool:
        """Whether a score by nearest neighbours is wanted in a space."""
        return any(f"{metric}_{space}" in self._wanted for metric in NEIGHBOUR_METRICS)

    def prepare(self, group: Group = ALONE) -> None:
        """Fetch and compute what the first score needs; of several processes rank 0 computes."""
        self._main.prepare(group)
        with group.one_a_machine_first():
            for extractor in self._extractors.values():
                extractor.prepare(self._device, self._progress)
        for name in self._summed:
            self._shifts[name] = group.from_main(partial(self._mean, name))
        if group.is_main:
            for name, space in self._spaces.items():
                _ = self._near(name) and space.real
                _ = f"mmd_{name}" in self._wanted and space.among

    def _mean(self, name: str) -> Tensor:
        return self._spaces[name].reference.gaussian.mean

    @property
    def _summed(self) -> tuple[str, ...]:
        """The spaces in which moments are summed here."""
        return tuple(name for name in self._extractors if f"fd_{name}" in self._wanted)

    @property
    def _held(self) -> tuple[str, ...]:
        """The spaces in which the samples' features are kept here."""
        return tuple(name for name in self._extractors if self._near(name) or f"mmd_{name}" in self._wanted)

    def score(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Score quantised images ``[B, C, H, W]`` uint8."""
        return self.finish([self.collect(batches)])

    def collect(self, batches: Iterable[Tensor]) -> Part:
        """Return what the main scorer needs, and moments and features in the spaces here."""
        sums = {name: RunningMoments(self._shift(name)) for name in self._summed}
        rows: dict[str, list[Tensor]] = {name: [] for name in self._held}

        def seen() -> Iterator[Tensor]:
            for batch in regrouped(batches, self.together):
                for name in dict.fromkeys((*sums, *rows)):
                    features = self._extractors[name](batch)
                    if name in sums:
                        sums[name].add(features)
                    if name in rows:
                        rows[name].append(features.float())
                yield batch

        part = self._main.collect(seen())
        return Part(
            {**part.moments, **{f"+{name}": own for name, own in sums.items()}},
            part.sums,
            {**part.rows, **{f"+{name}": torch.cat(own) for name, own in rows.items() if own}},
        )

    def _shift(self, name: str) -> Tensor:
        return self._shifts[name] if name in self._shifts else self._mean(name)

    def finish(self, parts: Sequence[Part]) -> dict[str, float]:
        """Return the scores of all images."""
        whole = merged(parts)
        found = self._main.finish([whole])
        for name, space in self._spaces.items():
            rows = whole.rows.get("pool" if name == "inception" else f"+{name}")
            if f"fd_{name}" in self._wanted:
                found[f"fd_{name}"] = frechet_distance(whole.moments[f"+{name}"].gaussian(), space.reference.gaussian)
            if rows is not None and f"mmd_{name}" in self._wanted:
                found[f"mmd_{name}"] = discrepancy(rows, space.rows, space.among)
            if rows is not None and self._near(name):
                with self._progress.task(f"neighbours of samples, {name}", len(rows), "image") as task:
                    scores = space.real.scores(rows, task)
                found |= {f"{metric}_{name}": score for metric, score in scores.items()}
        return {name: found[name] for name in self.protocol.metrics}
