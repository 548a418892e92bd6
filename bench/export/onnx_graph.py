"""The format ``onnx``: the whole sampler as one graph, or the network alone where the sampler evaluates it often."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tractbench.errors import ConfigError, RunFailedError
from tractbench.export.exported import TOLERANCE, Exported
from tractbench.export.loop import run_sampler
from tractbench.export.recipe import Recipe
from tractbench.export.weights import write_json
from tractbench.seeds import generator

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TORCH = (2, 6)
"""The first torch that writes these graphs."""

MOST = 8
"""A graph holds the network once for each evaluation, though its weights only once: beyond so many it is too large."""

LARGE = 1_500_000_000
"""Bytes of weights that do not fit into a file of ONNX, whose format ends at 2 GiB."""

SAMPLER, NETWORK, CONFIG = "sampler.onnx", "network.onnx", "sampler.json"


def require_onnx() -> None:
    """Raise ConfigError if a package is missing that the graph is made or checked with, or torch is too old for it."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--format onnx: {' and '.join(missing)} not installed; pip install {' '.join(missing)}")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < TORCH:
        needed = ".".join(map(str, TORCH))
        raise ConfigError(
            f"--format onnx needs torch {needed} or newer, and {torch.__version__} is installed; "
            f"pip install 'torch>={needed}', or choose another --format"
        )


def graph_file(recipe: Recipe) -> str:
    """Return the name of the file that a recipe's graph is in."""
    return SAMPLER if len(recipe.evaluations) <= MOST else NETWORK


def write_onnx(found: Exported, folder: Path) -> None:
    """Write the graph and ``sampler.json``, the coefficients of the evaluations.

    Raises:
        ConfigError: torch cannot write the network as ONNX.
        RunFailedError: onnxruntime computes something else with it than torch.
    """
    file = write_graph(found.network, found.recipe, folder)
    write_json(folder / CONFIG, {"graph": file, **found.config()})


def write_graph(network: nn.Module, recipe: Recipe, folder: Path) -> str:
    """Write a sampler as a graph for any number of images, and compare it with torch.

    ``sampler.onnx`` makes ``images`` of ``noise``, of ``labels`` for students with classes, and of ``fresh_noise`` for
    samplers that draw some. ``network.onnx`` makes ``prediction`` of ``x`` and ``noise_level``, of ``labels`` likewise,
    and of ``extra`` for networks that are told more.

    Args:
        network: the network, on the CPU.
        recipe: the sampler around it.
        folder: where the file is written.

    Returns:
        The file's name.

    Raises:
        ConfigError, RunFailedError: as :func:`write_onnx`.
    """
    file = graph_file(recipe)
    graph = (_Sampler if file == SAMPLER else _Network)(network, recipe)
    given = {name: tensor for name, tensor in _example(recipe, file, 2).items() if tensor is not None}
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            torch.onnx.export(
                graph,
                (),
                folder / file,
                kwargs=given,
                input_names=list(given),
                output_names=["images" if file == SAMPLER else "prediction"],
                dynamic_shapes={name: {1 if name == "fresh_noise" else 0: batch} for name in given},
                dynamo=True,
                external_data=4 * sum(one.numel() for one in network.parameters()) > LARGE,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # of many kinds, for any network of a plugin
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"torch cannot write a {type(network).__name__} as ONNX: {reason}") from error
    _forget_places(folder / file)
    _check(graph, recipe, folder / file)
    return file


def _forget_places(path: Path) -> None:
    """Take out of a graph what torch notes of its making: lines of this package's code, by their paths on this machine.

    Weights in files of their own stay there.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    for holder in (model, *model.functions):
        holder.ClearField("metadata_props")
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    for graph_values in (model.graph.input, model.graph.output, model.graph.value_info, model.graph.initializer):
        for value in graph_values:
            value.ClearField("metadata_props")
    onnx.save(model, path)


class _Sampler(nn.Module):
    """Standard normal noise in, images out."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe

    def forward(self, noise: Tensor, labels: Tensor | None = None, fresh_noise: Tensor | None = None) -> Tensor:
        """Return images of noise, of labels for students with classes, of fresh noise where the sampler takes it."""
        fresh = () if fresh_noise is None else fresh_noise
        return run_sampler(self.network, self.recipe.evaluations, self.recipe.prior_std * noise, labels, fresh)


class _Network(nn.Module):
    """One evaluation of the network."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe

    def forward(
        self, x: Tensor, noise_level: Tensor, labels: Tensor | None = None, extra: Tensor | None = None
    ) -> Tensor:
        """Return the prediction of a state and a noise level, of labels, and of what else the network is told."""
        prediction: Tensor = self.network(x, noise_level, labels, **({} if extra is None else {"extra": extra}))
        return prediction


def _example(recipe: Recipe, file: str, count: int) -> dict[str, Tensor | None]:
    """Return a graph's inputs by name, for so many images."""
    random = generator("export", "onnx", count)
    noise = torch.randn(count, *recipe.shape, generator=random)
    labels = torch.randint(recipe.classes, (count,), generator=random) if recipe.classes else None
    if file == NETWORK:
        first = recipe.evaluations[0]
        level = torch.full((count,), first["noise"])
        extra = None if first["extra"] is None else torch.tensor(first["extra"]).expand(count, -1)
        return {"x": noise * recipe.prior_std * first["scale"], "noise_level": level, "labels": labels, "extra": extra}
    fresh = torch.randn(recipe.fresh, count, *recipe.shape, generator=random) if recipe.fresh else None
    return {"noise": noise, "labels": labels, "fresh_noise": fresh}


@torch.no_grad()
def _check(graph: nn.Module, recipe: Recipe, path: Path) -> None:
    """Compare onnxruntime with torch, for another number of images than the graph was traced with."""
    import onnxruntime

    given = {name: tensor for name, tensor in _example(recipe, path.name, 3).items() if tensor is not None}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})[0]
    own = graph(**given).numpy()
    difference = float(np.abs(found - own).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(own).max())):
        raise RunFailedError(f"onnxruntime and torch differ by {difference:.2g}, more than {TOLERANCE:g}; not exported")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what torch's exporter says of its own workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
