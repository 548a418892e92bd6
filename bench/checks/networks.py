"""What a network promises: it can be built anywhere, learns with all its weights, and can be differentiated."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tractbench.checks.finding import Check, Finding, examine, inapplicable, require, untouched
from tractbench.datasets.additions import load_addition
from tractbench.datasets.workload import NetworkTable
from tractbench.errors import ConfigError
from tractbench.nets.architectures import architectures
from tractbench.nets.build import Argument, build_network, meta_network, network_class
from tractbench.plugins import find, names
from tractbench.registry import dataset_names, load_dataset
from tractbench.seeds import generator


@dataclass(frozen=True)
class Case:
    """A network with arguments of a small one.

    Attributes:
        name: what it is registered as.
        arguments: its constructor's.
        denoises: called as ``network(x, noise_level, labels)``; a classifier is called with images alone.
    """

    name: str
    arguments: Mapping[str, Argument]
    denoises: bool

    @property
    def classes(self) -> int:
        """Number of classes that it is told; 0 for none."""
        return int(str(self.arguments.get("classes", 0))) if self.denoises else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        channels, size = (int(str(self.arguments[name])) for name in ("channels", "size"))
        return channels, size, size

    def build(self, *names: str | int) -> nn.Module:
        """Return it in float64 with every weight moved, as branches that begin at zero hide what passes through."""
        network = build_network(self.name, self.arguments, generator("check", "network", *names)).double()
        random = generator("check", "moved")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=random))
        return network.eval()

    def inputs(self, count: int = 4) -> tuple[Tensor, ...]:
        """Return images, and noise levels of a denoiser."""
        x = torch.randn((count, *self.shape), dtype=torch.float64, generator=generator("check", "images"))
        level = torch.linspace(-0.9, 0.8, count, dtype=torch.float64)  # of logSNR or c_noise
        return (x, level) if self.denoises else (x,)

    def labels(self, count: int = 4) -> tuple[Tensor, ...]:
        """Return classes, () of an unconditional network."""
        return (torch.arange(count) % self.classes,) if self.classes else ()


def check_network(name: str) -> Iterator[Finding]:
    """Yield what the contract test finds of a network, unconditional and, if it can be told classes, conditional.

    Raises:
        ConfigError: it cannot be loaded, or nothing says what arguments it takes.
    """
    name = find("networks", name).name
    parameters = inspect.signature(network_class(name)).parameters
    denoises = "noise_level" in inspect.signature(network_class(name).forward).parameters or not _takes_images(name)
    arguments = small_arguments(name)
    cases = {name: Case(name, arguments, denoises)}
    if denoises and "classes" in parameters and not arguments.get("classes"):
        cases[f"{name} with classes"] = Case(name, {**arguments, "classes": 3}, denoises)
    for shown, case in cases.items():
        yield from examine("network", shown, case, CHECKS)


def _takes_images(name: str) -> bool:
    required = [p for p in inspect.signature(network_class(name).forward).parameters.values() if p.default is p.empty]
    return len(required) == 2  # self, images


def small_arguments(name: str) -> dict[str, Argument]:
    """Return arguments for a small network, from the architectures and workloads that name it.

    Raises:
        ConfigError: none does.
    """
    parameters = inspect.signature(network_class(name)).parameters
    image: dict[str, Argument] = {key: value for key, value in {"channels": 2, "size": 8}.items() if key in parameters}
    if parameters.get("classes") is not None and parameters["classes"].default is inspect.Parameter.empty:
        image["classes"] = 3
    tried: dict[int, dict[str, Argument]] = {}
    for arguments in _named(name):
        merged = {**arguments, **image}
        try:
            count = sum(parameter.numel() for parameter in meta_network(name, merged).parameters())
        except ConfigError:
            continue
        tried.setdefault(count, merged)
    if not tried:
        guessed = {key: 8 for key, p in parameters.items() if p.default is p.empty and key not in image}
        try:
            meta_network(name, {**guessed, **image})
        except ConfigError as error:
            raise ConfigError(
                f"no workload says what network '{name}' takes, and {error}; write one "
                "(docs/plugins.md), and give it with --plugin FILE.toml"
            ) from error
        return {**guessed, **image}
    return tried[min(tried)]


def _named(name: str) -> Iterator[dict[str, Argument]]:
    """Yield the arguments that this network is given anywhere."""
    for architecture in architectures().values():
        if architecture.network == name:
            yield dict(architecture.arguments)
    tables: list[NetworkTable] = []
    for dataset in dataset_names():
        try:
            workload = load_dataset(dataset).workload
        except Exception:  # noqa: S112 - of a broken plugin
            continue
        tables += [table for network in workload.networks.values() for table in network.values()]
        tables += [workload.classifier] if workload.classifier else []
    for addition in names("workloads"):
        try:
            networks = load_addition(addition)[0].networks
        except ConfigError:
            continue
        tables += [table for network in networks.values() for table in network.values()]
    yield from (dict(table.built().arguments) for table in tables if table.built().network == name)


def check_build(case: Case) -> str:
    """Check that it is built without storage and with, the same weights from the same generator, from nothing else."""
    meta = untouched("its constructor", lambda: meta_network(case.name, case.arguments))
    first, second = (
        untouched("initialise()", lambda: build_network(case.name, case.arguments, generator("check", 0)))
        for _ in range(2)
    )
    shapes = {name: value.shape for name, value in meta.state_dict().items()}
    require(
        shapes == {name: value.shape for name, value in first.state_dict().items()},
        "shapes differ on the meta device",
        "let the constructor depend on nothing but its arguments",
    )
    other = [name for name, value in first.state_dict().items() if not torch.equal(value, second.state_dict()[name])]
    require(
        not other, f"initialise() leaves {', '.join(other[:3])} as it was", "set every weight and every buffer there"
    )
    bad = [name for name, value in first.state_dict().items() if not bool(value.isfinite().all())]
    require(not bad, f"initialise() leaves {', '.join(bad[:3])} not finite", "set every weight and every buffer there")
    return f"{sum(p.numel() for p in first.parameters()):,} parameters"


def check_output(case: Case) -> str:
    """Check that it returns finite images of its input's size and dtype."""
    network = case.build(0)
    with torch.no_grad():
        y = untouched("forward()", lambda: network(*case.inputs(), *case.labels()))
        again = network(*case.inputs(), *case.labels())
        alone = network(*(one[:1] for one in (*case.inputs(), *case.labels())))
    wanted = (4, *case.shape)
    if case.denoises:
        good = y.ndim == 4 and y.shape[0] == 4 and y.shape[2:] == wanted[2:] and y.shape[1] % wanted[1] == 0
        require(good, f"the output has shape {tuple(y.shape)}", f"return {wanted}, or a multiple of its channels")
    require(y.dtype == torch.float64, f"the output is {y.dtype} of float64", "compute in the weights' dtype")
    require(bool(y.isfinite().all()), "the output is not finite", "mind divisions by 0")
    require(torch.equal(y, again), "the same input has two outputs", "draw no random numbers in evaluation mode")
    require(
        bool(torch.isclose(alone, y[:1], rtol=1e-8, atol=1e-10).all()),
        "an image's output depends on the others",
        "normalise over channels or groups, not over the batch",
    )
    return f"{tuple(y.shape)} of {wanted}"


def check_gradients(case: Case) -> str:
    """Check that every parameter has a gradient."""
    network = case.build(0)
    network(*case.inputs(), *case.labels()).square().sum().backward()
    named = dict(network.named_parameters())
    idle = [name for name, p in named.items() if p.requires_grad and (p.grad is None or not bool(p.grad.any()))]
    require(not idle, f"{', '.join(idle[:3])} has no gradient", "use it in forward(), or do not make it a parameter")
    return f"reach all {len(named)} parameters"


def check_inputs(case: Case) -> str:
    """Check that the output depends on the noise level and, of a conditional network, on the class."""
    if not case.denoises:
        inapplicable("it is called with images alone")
    network, (x, level), labels = case.build(0), case.inputs(), case.labels()
    with torch.no_grad():
        y = network(x, level, *labels)
        require(
            not torch.allclose(y, network(x, level + 0.5, *labels)),
            "the noise level does not matter",
            "embed it: one network serves all of them",
        )
        if labels:
            others = (labels[0] + 1) % case.classes
            require(not torch.allclose(y, network(x, level, others)), "the class does not matter", "embed the labels")
    return "the noise level" + " and the class matter" if labels else "the noise level matters"


def check_forward_mode(case: Case) -> str:
    """Check that forward-mode derivatives, which methods of continuous time take, are those of finite differences."""
    if not case.denoises:
        inapplicable("it is called with images alone")
    network, (x, level), labels = case.build(0), case.inputs(2), case.labels(2)
    dx = torch.randn(x.shape, dtype=torch.float64, generator=generator("check", "direction"))

    def function(x: Tensor, level: Tensor) -> Tensor:
        found: Tensor = network(x, level, *labels)
        return found

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        slope = torch.func.jvp(function, (x, level), (dx, torch.ones_like(level)))[1]
        h = 1e-5
        near = [function(x + k * h * dx, level + k * h) for k in (-2, -1, 1, 2)]
    difference = (near[0] - 8 * near[1] + 8 * near[2] - near[3]) / (12 * h)
    worst = float((slope - difference).abs().max() / difference.abs().max())
    require(
        worst < 1e-4,
        f"torch.func.jvp differs by {worst:.2g} from finite differences",
        "leave detach(), no_grad() and data out of forward(); custom functions need a jvp",
    )
    return f"jvp agrees with differences to {worst:.0e}"


CHECKS = (
    Check("build", check_build),
    Check("output", check_output),
    Check("gradients", check_gradients),
    Check("inputs", check_inputs),
    Check("forward mode", check_forward_mode),
)
