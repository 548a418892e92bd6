import json
from importlib.metadata import version

import pytest
import torch

from tractbench.results import provenance
from tractbench.results.provenance import environment, numerics


def test_an_environment_is_json_and_names_what_moves_numbers():
    found = environment("cpu")
    assert json.loads(json.dumps(found)) == found
    for name in ("torch", "torchvision", "torch-fidelity", "scipy", "safetensors", "numpy"):
        assert found["packages"][name] == version(name)
    assert (found["device"], found["gpu"], found["threads"]) == ("cpu", None, torch.get_num_threads())


def test_numeric_settings_follow_those_of_torch(monkeypatch):
    before = numerics()
    assert before["default_dtype"] == "float32"
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    try:
        after = numerics()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(precision)
    changed = {
        "cuda.matmul.fp32_precision": "tf32",
        "float32_matmul_precision": "high",
        "cudnn_benchmark": True,
        "cudnn_deterministic": True,
        "deterministic_algorithms": True,
        "default_dtype": "float64",
    }
    assert {name: after[name] for name in changed} == changed
    assert before["float32_matmul_precision"] == "highest"
    assert before["cuda.matmul.fp32_precision"] != "tf32"


def test_a_setting_that_torch_refuses_to_say_is_none(monkeypatch):
    def refuse():
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    assert numerics()["float32_matmul_precision"] is None


def test_a_gpu_is_named_with_its_driver_and_libraries(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"H100 {device}")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(provenance, "_output", lambda *command: "550.54.15\n550.54.15")
    found = environment("cuda")
    assert found["device"] == "H100 cuda"
    gpu = found["gpu"]
    assert (gpu["names"], gpu["count"], gpu["driver"]) == (["H100 0", "H100 1"], 2, "550.54.15")
    assert (gpu["cuda"], gpu["cudnn"]) == (torch.version.cuda, torch.backends.cudnn.version())


@pytest.mark.parametrize("error", [FileNotFoundError(), provenance.subprocess.TimeoutExpired("nvidia-smi", 10)])
def test_a_machine_without_its_tools_says_nothing_of_driver_and_code(monkeypatch, error):
    def fail(*command):
        raise error

    monkeypatch.setattr(provenance, "_output", fail)
    assert provenance._driver() is None
    assert environment("cpu")["code"] is None
