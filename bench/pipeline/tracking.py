"""Trackers that others make, through Accelerate's classes for them; the process of rank 0 alone speaks to them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tractbench.errors import ConfigError, choose
from tractbench.progress import Tracker

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

MODULES: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""Trackers by name, and the modules any of which each needs."""

PROJECT = "tractbench"


def make_tracker(name: str | None) -> Tracker:
    """Return a tracker by its name, which speaks to nobody before a run starts; None tracks nothing.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    if name is None:
        return Tracker()
    name = choose(name, "tracker", MODULES)
    if not any(importlib.util.find_spec(module) for module in MODULES[name]):
        raise ConfigError(f"--track {name}: the package is not installed; pip install {MODULES[name][0]}")
    return AccelerateTracker(name)


class AccelerateTracker(Tracker):
    """A tracker that Accelerate has a class for.

    Args:
        name: its name in :data:`MODULES`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tracker: GeneralTracker | None = None

    @property
    def active(self) -> bool:
        """Whether a run has started, in the process of rank 0."""
        return self._tracker is not None

    def start(self, folder: Path, config: Mapping[str, object]) -> None:
        """Begin a run under the name of its folder; TensorBoard's files lie in it."""
        from accelerate import PartialState
        from accelerate.tracking import MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker

        if not PartialState().is_main_process:
            return
        tracker: GeneralTracker
        if self._name == "tensorboard":
            tracker = TensorBoardTracker(run_name="tensorboard", logging_dir=folder)
        elif self._name == "wandb":
            tracker = WandBTracker(run_name=PROJECT, name=folder.name, dir=str(folder))
        elif self._name == "mlflow":
            tracker = MLflowTracker(experiment_name=PROJECT, run_name=folder.name)
        else:
            tracker = TrackioTracker(run_name=PROJECT, name=folder.name)
        with redirect_stdout(sys.stderr):  # trackio tells there what it does; --json says that nothing else is
            tracker.start()
        if self._name == "tensorboard":  # its hyperparameters would be a run of their own
            tracker.log({"config": json.dumps(config, indent=2)}, step=0)
        else:
            tracker.store_init_configuration({key: _plain(value) for key, value in config.items()})
        self._tracker = tracker

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of a training step by name."""
        if self._tracker is not None:
            self._tracker.log(dict(values), step=step)

    def image(self, name: str, path: Path, step: int) -> None:
        """Send a PNG file to the trackers that take pictures; where there is none, nothing is sent."""
        from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

        if self._tracker is None or not path.is_file():
            return
        if isinstance(self._tracker, TensorBoardTracker):
            pixels = np.asarray(Image.open(path).convert("RGB"))[None]  # [1, H, W, 3]
            self._tracker.log_images({name: pixels}, step=step, dataformats="NHWC")
        elif isinstance(self._tracker, WandBTracker):
            self._tracker.log_images({name: [Image.open(path).convert("RGB")]}, step=step)
        elif isinstance(self._tracker, MLflowTracker):
            self._tracker.log_artifact(str(path), name)

    def close(self) -> None:
        """End the run."""
        if self._tracker is not None:
            with redirect_stdout(sys.stderr):
                if self._name == "trackio":  # by its own function, or it finishes the run again when Python ends
                    import trackio

                    trackio.finish()
                else:
                    self._tracker.finish()
        self._tracker = None


def _plain(value: object) -> bool | int | float | str | None:
    return value if isinstance(value, (bool, int, float, str)) or value is None else json.dumps(value)
