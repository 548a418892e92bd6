"""What the data sets share whose images a user brings: prepared once, then mapped from disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.datasets.formats.prepared import (
    Manifest,
    Source,
    Split,
    check_split,
    folder_of,
    open_split,
    prepare_split,
    read_manifest,
    verify_split,
)
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.progress import Progress

Found = TypeVar("Found", Manifest, Split)

SPLITS = ("train", "held_out")


class FileDataset(Dataset):
    """A data set that is prepared from files.

    Attributes:
        label_count: number of classes that the files name, whether runs use them or not.
        held_out_count: images that the published held-out split has.
        download_url: where the files can be fetched; None if nobody may pass them on.
        download_sha256: their hash.
        variants: arguments of the data set that stand for other pixels, prepared apart; the default first.
    """

    label_count: ClassVar[int]
    held_out_count: ClassVar[int]
    download_url: ClassVar[str | None] = None
    download_sha256: ClassVar[str | None] = None
    variants: ClassVar[tuple[str, ...]] = ()
    flips: ClassVar[bool] = True

    @property
    def data_name(self) -> str:
        """Name of the prepared images, which several variants of a data set can share."""
        return self.name

    @property
    def files(self) -> FileDataset:
        """The data set itself."""
        return self

    def sources(self, path: Path) -> Mapping[str, Source]:
        """Return the splits that the files at a path hold."""
        raise NotImplementedError

    def outdated(self, manifest: Manifest) -> str | None:
        """Return how prepared images differ from what the name says, None if they do not."""
        return None

    def deviation(self, path: Path) -> str | None:
        """Return how files differ from the published ones, None if they do not or nobody can tell."""
        return None

    def prepare(
        self,
        path: Path,
        progress: Progress,
        *,
        splits: Collection[str] = (),
        allow_deviation: bool = False,
        force: bool = False,
    ) -> list[Manifest]:
        """Convert the files at a path into prepared splits.

        Args:
            path: the files.
            progress: draws the bars, and says which split the files lack.
            splits: those that the files must hold, and no other; empty for all that they hold.
            allow_deviation: take files or counts other than the published ones; the manifests say so.
            force: convert again what is there.

        Raises:
            ConfigError, DamagedFileError: the files are not what they should be.
        """
        deviation = self.deviation(path)
        if deviation and not allow_deviation:
            raise DamagedFileError(f"{path}: {deviation}; fetch it again, or add --allow-deviation")
        sources = self.sources(path)
        for split in splits or SPLITS:
            if split not in sources:
                lacking = f"{path} holds no {split} images for {self.name}"
                if splits:
                    raise ConfigError(f"{lacking}; give other files, or leave --split {split} out")
                stays = "; those that are prepared stay, from other files" * bool(open_split(self.data_name, split))
                progress.message(lacking + stays)
        expected = {"train": self.train_count, "held_out": self.held_out_count}
        return [
            prepare_split(
                self.data_name,
                split,
                source,
                self.shape,
                self.label_count,
                expected[split],
                progress,
                deviation=deviation,
                allow_deviation=allow_deviation,
                force=force,
            )
            for split, source in sources.items()
            if not splits or split in splits
        ]

    def manifests(self) -> list[Manifest]:
        """Return the manifests of the prepared splits, whose files have the size that these say."""
        return [found.manifest for split in SPLITS if (found := open_split(self.data_name, split))]

    def verify(self, progress: Progress | None = None) -> dict[str, bool]:
        """Read the prepared splits whole; for each, whether it has the hash of its manifest."""
        bar = progress or Progress()
        return {found.split: verify_split(self.data_name, found.split, bar) for found in self.manifests()}

    def _here(self, found: Found | None, split: str) -> Found:
        """Return what was found of a prepared split; a ConfigError says how to get it."""
        if found is None:
            files = "--download" if self.download_url else "PATH"
            others = [f"{type(self).name}:{variant}" for variant in self.variants]
            here = ", ".join(name for name in others if (folder_of(name) / f"{split}.json").exists())
            raise ConfigError(
                f"data set '{self.name}' has no {split} images here; tractbench data prepare {self.name} {files}"
                + f", or take what is here: {here}" * bool(here)
            )
        if (reason := self.outdated(found if isinstance(found, Manifest) else found.manifest)) is not None:
            raise ConfigError(f"data set '{self.name}': {reason}")
        return found

    def _split(self, split: str) -> Split:
        return self._here(open_split(self.data_name, split), split)

    @cached_property
    def _checked_train(self) -> Split:
        check_split(self._train)
        return self._train

    @cached_property
    def _manifest(self) -> Manifest:
        """The training images' manifest; the images are not opened for it."""
        return self._here(read_manifest(self.data_name, "train"), "train")

    @cached_property
    def _train(self) -> Split:
        return self._split("train")

    @cached_property
    def train(self) -> Tensor:
        """Training images ``[N, C, H, W]``, uint8, mapped from disk."""
        return self._checked_train.images

    @property
    def train_labels(self) -> Tensor | None:
        """Classes of the training images ``[N]``, None if runs are not conditional."""
        if not self.classes:
            return None
        if not self._manifest.labelled:
            raise ConfigError(f"data set '{self.name}' was prepared from files without labels; prepare it from others")
        return self._checked_train.labels

    @cached_property
    def held_out(self) -> Tensor:
        """Images that nothing is trained on, ``[N, C, H, W]``, uint8, mapped from disk."""
        found = self._split("held_out")
        check_split(found)
        return found.images

    @property
    def training_images(self) -> int:
        """How many training images are prepared, as their manifest says."""
        return self._train.manifest.count

    @property
    def deviates(self) -> str | None:
        """How the prepared training images differ from the published ones; then no score is one of the data set."""
        return self._manifest.deviation

    @property
    def contents(self) -> object:
        """The training images' manifest, whose hash ``data verify`` compares with images and labels."""
        return self._manifest.model_dump(include={"dataset", "count", "shape", "sha256", "deviation"})
