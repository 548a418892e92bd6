"""Operations and activations, against closed forms and against what real tensors do."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from tractbench.config.resolve import resolve
from tractbench.datasets.base import NetworkPreset
from tractbench.diffusion.processes import load_process
from tractbench.evaluation.extractors.inception import OPERATIONS, untrained_network
from tractbench.method import Phase
from tractbench.nets.build import build_network
from tractbench.pipeline.counts import CLOSED_FORM, Passes, count, count_passes, count_phases, teacher_preset
from tractbench.pipeline.measure import Subject
from tractbench.pipeline.steps import StepParts

WIDTH, EMBEDDING = 8, 4
MLP = NetworkPreset("mlp", {"channels": 1, "size": 2, "width": WIDTH, "blocks": 1, "embedding": EMBEDDING}, "x0")
UNET = NetworkPreset(
    "song_unet",
    {"channels": 3, "size": 8, "width": 32, "embedding": 32, "multipliers": (1, 1), "blocks": 1, "attention": (4,),
     "noise_width": 32},
    "edm",
)  # fmt: skip


def test_operations_are_those_of_the_linear_layers():
    first = [4 * WIDTH, EMBEDDING**2]  # no gradient goes on to the image and to the embedding
    others = [EMBEDDING**2, 2 * WIDTH * EMBEDDING, 2 * WIDTH**2, 2 * WIDTH**2, 4 * WIDTH]
    counts = count(MLP)
    assert counts.forward == 2 * sum(first + others)
    assert counts.backward == 2 * sum(first) + 4 * sum(others)
    assert count(None) == CLOSED_FORM


@pytest.mark.parametrize("preset", [MLP, UNET], ids=["mlp", "unet"])
def test_activations_are_what_a_real_forward_pass_keeps(preset):
    network = build_network(preset.network, preset.arguments, torch.Generator().manual_seed(0))
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    size, channels = preset.arguments["size"], preset.arguments["channels"]

    def kept(images):
        found = {}

        def keep(tensor):
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output = network(torch.ones(images, channels, size, size), torch.zeros(images))
        assert output.requires_grad
        return sum(t.untyped_storage().nbytes() for address, t in found.items() if address not in own)

    assert count(preset).activations == kept(3) - kept(2)
    assert count(preset).activations / 2 < count(preset).activations_bf16 < count(preset).activations


@pytest.mark.parametrize(
    ("method", "settings", "phase", "expected"),
    [
        ("btd", {}, Phase(4, 2), Passes(2, 0, 0)),
        ("tract", {}, Phase(4, 2), Passes(1, 1, 0)),
        ("tract", {}, Phase(4, 4), Passes(1, 0, 0)),
        ("tract_edm", {}, Phase(40, 1), Passes(2, 1, 0)),
        ("tract_edm", {"teacher_solver": "ddim_ve"}, Phase(40, 1), Passes(1, 1, 0)),
    ],
)
def test_passes_of_a_target(method, settings, phase, expected):
    config, chosen, dataset = resolve({"method": method, "dataset": "digits", **settings})
    process = load_process(config.process, config.grid_steps)
    assert count_passes(chosen, process, dataset.shape, phase) == expected


@pytest.mark.parametrize("method", ["btd", "tract", "tract_edm"])
def test_the_operations_of_a_step_are_those_of_its_passes_alone(method):
    config, chosen, dataset = resolve({"method": method, "dataset": "digits", "batch": 4})
    process, preset = load_process(config.process, config.grid_steps), teacher_preset(config, dataset)
    parts = StepParts(Subject(config, chosen, dataset, process, preset, "cpu").distillation(config.batch))
    counted = []
    for work in (parts.run.train_step, parts.floor()):
        with FlopCounterMode(display=False) as counter:
            work()
        counted.append(counter.get_total_flops())
    work = count_phases(config, chosen, dataset, process, preset)[0]
    assert counted == [4 * work.operations] * 2


def test_a_smaller_student_teaches_the_later_phases():
    settings = {"method": "tract", "dataset": "digits", "schedule": "64,64,8,1", "student": "mlp-third"}
    config, method, dataset = resolve(settings)
    preset = teacher_preset(config, dataset)
    large, small = count(preset), count(dataset.network("mlp-third", "vp"))
    first, second, third = count_phases(config, method, dataset, load_process("vp", 1024), preset)
    assert first.operations == large.forward + small.forward + small.backward
    assert second.operations == third.operations == 3 * small.forward + small.backward
    assert sum(work.images for work in (first, second, third)) == config.budget


def test_operations_of_inception():
    with torch.device("meta"):
        network = untrained_network()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(2, 3, 32, 32, dtype=torch.uint8, device="meta"))
    assert counter.get_total_flops() == 2 * OPERATIONS
