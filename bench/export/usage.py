"""What a model card says about sampling: code that runs in the exported folder."""

from __future__ import annotations

from tractbench.export.exported import Exported
from tractbench.export.onnx_graph import SAMPLER, graph_file

ROW = """\
`evaluations` has a row for each evaluation of the network. The first state x is noise of standard deviation
`prior_std`. The network is given `scale` x and the noise level `noise`, and `extra`, which is added to its embedding,
if that is not null. The prediction x0 is `skip` x plus, for each entry of `out`, so much of the next C channels of the
network's output; it is clipped to -1 to 1 if `clip` says so. The next state is `state` x + `x0` x0 + `before` (the
state before x) + `fresh` (new standard normal noise); the last one is the image."""


def usage(found: Exported, form: str) -> str:
    """Return how a folder of a format is sampled, in Markdown."""
    if form == "diffusers":
        return _diffusers(found)
    if form == "onnx":
        return _onnx_sampler(found) if graph_file(found.recipe) == SAMPLER else _onnx_network(found)
    return (
        f"`model.safetensors` holds the weights of the network `{found.network_name}`. `config.json` has its "
        f"constructor's arguments, and the sampler.\n\n{ROW}"
    )


def _diffusers(found: Exported) -> str:
    classes, picture = found.recipe.classes, found.recipe.shape[0] in (1, 3)
    labels = f"class_labels=[i % {classes} for i in range(16)], " if classes else ""
    kind = "" if picture else ', output_type="raw"'
    last = 'images[0].save("sample.png")' if picture else "print(images.flatten(1))"
    return f"""```python
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(".", trust_remote_code=True)  # this folder, or its name on the Hub
images = pipeline(batch_size=16, {labels}generator=torch.Generator().manual_seed(0){kind}).images
{last}
```

`trust_remote_code` lets diffusers execute `pipeline.py` and `student/student.py` of this folder: read them first.
They need torch and diffusers, not tractbench."""


def _onnx_sampler(found: Exported) -> str:
    recipe = found.recipe
    shape = ", ".join(map(str, recipe.shape))
    given = f'{{"noise": random.standard_normal((16, {shape}), dtype=np.float32)'
    if recipe.classes:
        given += f', "labels": np.arange(16) % {recipe.classes}'
    if recipe.fresh:
        given += f',\n         "fresh_noise": random.standard_normal(({recipe.fresh}, 16, {shape}), dtype=np.float32)'
    return f"""`sampler.onnx` makes images in -1 to 1 of standard normal noise, any number of them.

```python
import numpy as np
import onnxruntime

random = np.random.default_rng(0)
given = {given}}}
session = onnxruntime.InferenceSession("sampler.onnx")
images = session.run(["images"], given)[0]
print(images.shape, images.min(), images.max())
```

`sampler.json` has the network's architecture, and the coefficients that the graph is made of."""


def _onnx_network(found: Exported) -> str:
    recipe = found.recipe
    labels = f', "labels": np.arange(16) % {recipe.classes}' if recipe.classes else ""
    extra = ', "extra": np.tile(np.float32(row["extra"]), (16, 1))' if recipe.evaluations[0]["extra"] else ""
    return f"""`network.onnx` is one evaluation of the network, for any number of images, `sampler.json` what is done
with it: the sampler takes {len(recipe.evaluations)} evaluations, too many for one graph.

```python
import json
from pathlib import Path

import numpy as np
import onnxruntime

random, sampler = np.random.default_rng(0), json.loads(Path("sampler.json").read_text())["sampler"]
session = onnxruntime.InferenceSession("network.onnx")
shape = (16, *sampler["shape"])
state = before = np.float32(sampler["prior_std"]) * random.standard_normal(shape, dtype=np.float32)
for row in sampler["evaluations"]:
    level = np.full(16, row["noise"], np.float32)
    given = {{"x": np.float32(row["scale"]) * state, "noise_level": level{labels}{extra}}}
    outputs = np.split(session.run(["prediction"], given)[0], len(row["out"]), axis=1)
    x0 = row["skip"] * state + sum(share * output for share, output in zip(row["out"], outputs))
    x0 = np.clip(x0, -1, 1) if row["clip"] else x0
    after = row["state"] * state + row["x0"] * x0 + row["before"] * before
    if row["fresh"] is not None:
        after += row["fresh"] * random.standard_normal(shape)
    state, before = after.astype(np.float32), state
print(state.shape, state.min(), state.max())
```"""
