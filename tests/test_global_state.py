"""What a caller has set globally in PyTorch decides nothing of a student."""

import pytest
import torch

from tractbench.config.fields import RunConfig
from tractbench.datasets.gaussian import Gaussian
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VP
from tractbench.io.tensors import tensors_digest
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench.training.distillation import Distillation
from tractbench.training.numerics import precision


def student():
    """A student after ten steps, as a run trains it: within its data set's context and its precision."""
    data = Gaussian("2")
    config = RunConfig(method="tract", dataset="gaussian:2", tier="smoke", teacher="exact", grid_steps=1024, batch=32,
                       schedule=(4, 4, 1), budget=32 * 10, lr=3e-3, student="mlp")  # fmt: skip
    arguments = {"channels": 2, "size": 1, "width": 8, "blocks": 1, "embedding": 4}

    def new_network(_):
        return X0Denoiser(build_network("mlp", arguments, generator("tests", "global")), VP())

    with data.computing(), precision("fp32", "cpu"):
        run = Distillation(config, TRACT(clip_target=False), VP(), data.exact_denoiser(VP()), data.train[:512],
                           new_network=new_network)  # fmt: skip
        while run.step < run.total:
            run.train_step()
        return tensors_digest(run.averaged().state_dict())


@pytest.mark.parametrize("products", ["highest", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_is_the_same_whatever_the_type_of_new_tensors_and_the_precision_of_products(products, dtype):
    expected = student()
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(products)
        assert student() == expected
        assert (torch.get_default_dtype(), torch.get_float32_matmul_precision()) == (dtype, products)
    finally:
        torch.set_default_dtype(before[0])
        torch.set_float32_matmul_precision(before[1])
