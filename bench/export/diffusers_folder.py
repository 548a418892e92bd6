"""The format ``diffusers``: a folder that ``DiffusionPipeline.from_pretrained`` samples from, with the code it needs.

The networks are those of the published teachers, which no class of diffusers is: its ``UNet2DModel`` adds the
embedding, resamples and attends otherwise. So the folder brings the network's own code, as source that people can read,
from the modules that trained it (:mod:`tractbench.export.bundle`); diffusers asks for ``trust_remote_code=True`` before
it executes any. A serialised program instead (``torch.export``) would be executed as well, but nobody could read it,
and only versions of torch near the one that wrote it take it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from tractbench.errors import ConfigError
from tractbench.export.bundle import bundled
from tractbench.export.exported import Exported
from tractbench.export.weights import save_network, write_json
from tractbench.io.files import write_atomic

STUDENT, PIPELINE = "student", "pipeline"


def write_diffusers(found: Exported, folder: Path) -> None:
    """Write ``model_index.json``, ``pipeline.py`` and the student's folder: code, configuration and weights.

    Raises:
        ConfigError: the network is a plugin's.
    """
    if not found.built_in:
        raise ConfigError(
            f"network '{found.network_name}' is a plugin's, whose code is not ours to copy; choose --format onnx"
        )
    config, network = found.config(), type(found.network)
    write_json(folder / "model_index.json", {
        "_class_name": [PIPELINE, "FewStepPipeline"],
        STUDENT: [STUDENT, "Student"],
        "sampler": config["sampler"],
    })  # fmt: skip
    write_atomic(folder / f"{PIPELINE}.py", bundled(["tractbench.export.pipeline"], title("Samples a student.")))
    inside = folder / STUDENT
    inside.mkdir()
    write_json(inside / "config.json", {"_class_name": "Student", "arguments": config["arguments"]})
    code = bundled(
        [network.__module__, "tractbench.export.student"],
        title(f"The network '{found.network_name}'."),
        last=f"NETWORK = {network.__name__}",
    )
    write_atomic(inside / f"{STUDENT}.py", code)
    save_network(found.network, inside / "diffusion_pytorch_model.safetensors", prefix="net.")


def title(what: str) -> str:
    """Return the docstring of a file of code that is copied."""
    return f"{what}\n\nFrom tractbench {version('tractbench')} (Apache-2.0), put together by 'tractbench export'.\n"
