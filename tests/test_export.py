"""Exported folders make the images of the runs that they are of, in a process that has no tractbench."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.torch_version import TorchVersion

import tractbench
from tractbench.config.resolve import resolve
from tractbench.diffusion.denoiser import BothDenoiser, SigmaDenoiser
from tractbench.diffusion.processes import VE, VP
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import ConfigError, RunFailedError
from tractbench.evaluation.sampling import fresh_noise, prior_labels, prior_noise
from tractbench.export.diffusers_folder import write_diffusers
from tractbench.export.exported import exported
from tractbench.export.exporting import export_run
from tractbench.export.loop import run_sampler
from tractbench.export.onnx_graph import write_graph
from tractbench.export.recipe import make_recipe
from tractbench.nets.build import build_network
from tractbench.pipeline.rescore import load_finished
from tractbench.pipeline.run import run
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.samples import draw_samples
from tractbench.progress import Progress
from tractbench.results.store import Store
from tractbench.seeds import generator

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.xdist_group("export")]

SMALL = {"tier": "smoke", "budget": 320, "batch": 32, "samples": 10, "sampling_seeds": [0, 1], "chunk": 10}
CLASSES = "mixture2d:conditional"
RUNS = {
    "vp": {"method": "tract", "dataset": "digits", "nfe": 2, "schedule": (8, 2)},
    "ve": {"method": "tract_edm", "dataset": "digits", "nfe": 2, "schedule": (8, 2)},
    "cd": {"method": "cd", "dataset": "digits", "nfe": 3, "schedule": (8, 1)},
    "ect": {"method": "ect", "dataset": CLASSES, "nfe": 2, "process": "ve", "schedule": (8, 8, 1)},
    "scm": {"method": "scm", "dataset": "digits", "nfe": 2, "schedule": (8, 1)},
    "classes": {"method": "btd", "dataset": CLASSES, "nfe": 2, "schedule": (8, 8, 4, 2)},
    "ddim": {"method": "ddim", "dataset": "digits", "nfe": 12, "grid_steps": 24},
    "heun": {"method": "ddim", "dataset": "digits", "process": "ve", "nfe": 9, "solver": "heun", "grid_steps": 10},
}
CLOSED = {"method": "ddim", "dataset": "mixture2d", "nfe": 2, "grid_steps": 8}
IMAGES = 6
WITHOUT = "import sys; sys.modules['tractbench'] = None\n"
"""Begins programs in which tractbench cannot be imported."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of tiny runs, made when they are asked for: by name, their folders."""
    root, found = tmp_path_factory.mktemp("export") / "runs", {}

    def folder(name):
        if name not in found:
            settings = dict(SMALL) | {**RUNS, "closed": CLOSED}[name]
            if settings["method"] == "ddim":
                settings = {key: value for key, value in settings.items() if key not in ("budget", "batch")}
            outcome = run(*resolve(settings), Store(root, create=True), Progress(), Runtime())
            found[name] = root / outcome.record.folder
        return found[name]

    return folder


@pytest.fixture(scope="module")
def folders(store, tmp_path_factory):
    """Where each run is exported for diffusers."""
    root = tmp_path_factory.mktemp("diffusers")
    return {name: export_run(store(name), "diffusers", root / name) for name in RUNS}


def own_images(folder):
    """A run's own first images of sampling seed 0, and what they are made of: standard normal noise, labels, noise."""
    finished = load_finished(folder, "cpu")
    cell, seed, images = finished.cell, 0, range(IMAGES)
    with cell.dataset.computing():
        drawn = torch.cat(list(draw_samples(cell, finished.denoiser, seed, Runtime(), count=IMAGES)))
    shape, classes = cell.dataset.shape, cell.dataset.classes
    given = {"noise": prior_noise(cell.process, shape, seed, images) / cell.process.prior_std}
    if classes:
        given["labels"] = prior_labels(classes, seed, images)
    if fresh := fresh_noise(cell.sampler, shape, seed, images):
        given["fresh_noise"] = torch.stack(fresh)
    return drawn, given


def isolated(program, folder, *arguments):
    """Run a program in a folder, without tractbench, network or a home of its own; return what it printed."""
    environment = {**os.environ, "HF_HOME": str(folder / ".hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", WITHOUT + program, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


DIFFUSERS = """
import os, re, numpy, torch
from diffusers import DiffusionPipeline
from PIL import Image
torch.manual_seed(3)
for folder in sys.argv[1:]:
    given = {k: torch.from_numpy(v) for k, v in numpy.load(f"{folder}.npz").items()}
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    labels = {"class_labels": given["labels"]} if "labels" in given else {}
    made = pipeline(latents=given["noise"], fresh_noise=given.get("fresh_noise"), output_type="raw", **labels).images
    draw = lambda: torch.Generator().manual_seed(7)
    random, shape = draw(), given["noise"].shape
    latents = torch.randn(shape, generator=random)
    fresh = [torch.randn(shape, generator=random) for _ in range(pipeline.config.sampler["fresh_noises"])]
    named = pipeline(latents=latents, fresh_noise=fresh, output_type="raw", **labels).images
    drawn = pipeline(batch_size=len(latents), generator=draw(), output_type="raw", **labels).images
    assert torch.equal(named, drawn)
    numpy.save(f"{folder}-made.npy", made.numpy())
    if shape[1] in (1, 3):
        pictures = pipeline(latents=given["noise"], fresh_noise=given.get("fresh_noise"), **labels)[0]
        assert all(isinstance(one, Image.Image) and one.size == (8, 8) for one in pictures)
    else:
        for wrong in ({}, {"class_labels": [9, 8, 7, 6, 5, 4]}, {"class_labels": [1, 2]}):
            try:
                pipeline(latents=given["noise"], output_type="raw", **wrong)
            except ValueError as error:
                print(error)
    if os.path.exists(f"{folder}/README.md"):
        os.chdir(folder)
        exec(re.search(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL)[1])  # what the card says
        os.chdir("..")
assert torch.equal(torch.rand(1), torch.manual_seed(3) and torch.rand(1))  # no global random number was drawn
"""


UNET = {"channels": 3, "size": 8, "embedding": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "classes": 5}
UNETS = {
    "google_unet": (BothDenoiser, VP(), {"width": 32, "outputs": 6}),
    "song_unet": (SigmaDenoiser, VE(), {"width": 16, "noise_width": 16}),
}
"""Published architectures, as small as they come: how they are used, and what else they are told."""


def small_unet(name, evaluations):
    """A small U-Net with classes whose every layer counts, its arguments and recipe; its images, and their noise."""
    kind, process, more = UNETS[name]
    arguments, shape = UNET | more, (3, 8, 8)
    network = build_network(name, arguments, generator("tests", "unet")).requires_grad_(False).eval()
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator("tests", parameter.numel())))
    denoiser, sampler = kind(network, process), Sampler.equal(evaluations)
    recipe = make_recipe(denoiser, process, sampler, shape, classes=5)
    noise, labels = prior_noise(process, shape, 0, range(IMAGES)), prior_labels(5, 0, range(IMAGES))
    own = sample_ode(denoiser, process, noise, sampler, labels)
    return (network, arguments, recipe), own, {"noise": noise / process.prior_std, "labels": labels}


def unet_folder(run, folder):
    """Write a small U-Net with classes in place of a run's network; its own images, and what they are made of."""
    (network, arguments, recipe), own, given = small_unet("google_unet", 2)
    folder.mkdir()
    write_diffusers(
        replace(exported(run), network=network, network_name="google_unet", arguments=arguments, recipe=recipe), folder
    )
    return own, given


def test_the_pipeline_of_every_kind_of_run_makes_its_images_without_tractbench(folders, store, tmp_path):
    made_by = {name: own_images(store(name)) for name in folders}
    places = {**folders, "unet": folders["vp"].parent / "unet"}
    made_by["unet"] = unet_folder(store("vp"), places["unet"])
    for name, (_, given) in made_by.items():
        np.savez(f"{places[name]}.npz", **given)
    said = isolated(DIFFUSERS, tmp_path, *places.values())
    for name, (own, _) in made_by.items():
        made = torch.from_numpy(np.load(f"{places[name]}-made.npy"))
        torch.testing.assert_close(made.double(), own, rtol=0, atol=1e-4)
    assert (folders["cd"] / "sample.png").is_file()
    for words in ("this student has 8 classes", "they go from 0 to 7", "2 class_labels for 6 images"):
        assert words in said


def test_a_card_says_how_the_run_was_made(folders, store):
    text = (folders["cd"] / "README.md").read_text(encoding="utf-8")
    record = json.loads((store("cd") / "record.json").read_text(encoding="utf-8"))
    for words in (f"```sh\n{record['command']}\n```", "320 images", "whose licence is Apache-2.0", record["identity"]):
        assert words in text
    assert "(samples.png)" in text
    assert (folders["cd"] / "samples.png").is_file()
    assert "The teacher is a closed form" in (folders["classes"] / "README.md").read_text(encoding="utf-8")


def test_the_card_is_one_of_the_hub(folders, store):
    from huggingface_hub import ModelCard

    card = ModelCard.load(folders["cd"] / "README.md").data
    record = json.loads((store("cd") / "record.json").read_text(encoding="utf-8"))
    assert (card.license, card.library_name, card.model_name) == (
        "apache-2.0",
        "diffusers",
        "cd-digits-smoke-nfe3-seed0",
    )
    scores = {one.metric_type: one.metric_value for one in card.eval_results}
    assert scores == {name: metric["mean"] for name, metric in record["metrics"].items()}
    assert ModelCard.load(folders["classes"] / "README.md").data.license is None  # the teacher is a closed form


def test_the_interval_of_a_score_is_students(folders, store):
    from scipy.stats import t

    record = json.loads((store("cd") / "record.json").read_text(encoding="utf-8"))
    first, second = record["metrics"]["fd_pixel"]["per_seed"]
    low, high = t.interval(0.95, 1, loc=(first + second) / 2, scale=abs(first - second) / 2)
    text = (folders["cd"] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| FD, pixels |"))
    assert [float(value) for value in re.findall(r"-?[\d.]+(?:e[+-]?\d+)?", row)][1:3] == pytest.approx(
        [low, high], rel=1e-3
    )


def test_safetensors_are_the_networks_own_weights_with_the_architecture(store, tmp_path):
    folder = export_run(store("cd"), "safetensors", tmp_path / "out")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "model.safetensors")
    build_network(config["network"], config["arguments"]).load_state_dict(tensors)
    assert config["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert config["sampler"]["fresh_noises"] == 2


def test_onnx_makes_the_images_of_a_run_with_classes_and_fresh_noise(store, tmp_path):
    import onnxruntime

    folder = export_run(store("ect"), "onnx", tmp_path / "out")
    own, given = own_images(store("ect"))
    session = onnxruntime.InferenceSession(folder / "sampler.onnx")
    (made,) = session.run(["images"], {name: tensor.numpy() for name, tensor in given.items()})
    torch.testing.assert_close(torch.from_numpy(made).double(), own, rtol=0, atol=1e-4)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert isolated(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], folder).startswith("(16, 2, 1, 1)")


def test_onnx_of_a_long_sampler_is_its_network_and_what_to_do_with_it(store, tmp_path):
    folder = export_run(store("heun"), "onnx", tmp_path / "out")
    own, given = own_images(store("heun"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    np.save(folder / "noise.npy", given["noise"].numpy())
    program, replaced = re.subn(r"random\.standard_normal\(shape, dtype=np\.float32\)", 'np.load("noise.npy")', program)
    program, counted = re.subn(r"\b16\b", str(IMAGES), program)
    assert (replaced, counted) == (1, 2)
    isolated(program + 'np.save("made.npy", state)', folder)
    torch.testing.assert_close(torch.from_numpy(np.load(folder / "made.npy")).double(), own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", UNETS)
def test_onnx_of_a_unet_makes_its_images_and_names_no_place_of_this_machine(name, tmp_path):
    import onnxruntime

    (network, _, recipe), own, given = small_unet(name, 1)
    path = tmp_path / write_graph(network, recipe, tmp_path)
    session = onnxruntime.InferenceSession(path)
    (made,) = session.run(["images"], {key: tensor.numpy() for key, tensor in given.items()})
    torch.testing.assert_close(torch.from_numpy(made).double(), own.double(), rtol=0, atol=1e-4)
    assert float(own.std()) > 0.1
    for place in (Path(torch.__file__).parents[1], Path(tractbench.__file__).parent):
        assert str(place).encode() not in path.read_bytes()


def test_a_run_is_named_as_elsewhere(tractbench, store, tmp_path):
    folder = store("vp")
    root = folder.parent.parent
    identity = json.loads((folder / "record.json").read_text(encoding="utf-8"))["identity"]
    for number, name in enumerate((folder, folder.name, identity[:8])):
        out = tmp_path / str(number)
        done = tractbench("export", name, "--format", "safetensors", "--runs", root, "--out", out, "--json")
        assert done.code == 0, done.err
        assert done.json["folder"] == str(out)
        assert done.json["files"][:2] == ["README.md", "config.json"]
    shown = tractbench("export", folder, "--format", "safetensors")
    assert (shown.code, shown.out.split(":")[0]) == (0, f"{folder.name}-safetensors")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing is called 'nothing'"),
        (["digits"], "digits is a table, not a run"),
        (["digits/tract/1"], "there is no run of it"),
        (["RUN", "--format", "onx"], "did you mean 'onnx'?"),
        (["RUN", "--out", "full"], "not empty"),
        (["CLOSED"], "closed form, which has no weights"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(tractbench, store, tmp_path, arguments, said):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    named = {"RUN": store("vp"), "CLOSED": store("closed") if "CLOSED" in arguments else ""}
    root = store("vp").parent.parent
    done = tractbench("export", *(named.get(one, one) for one in arguments), "--runs", root)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_nothing_is_written_unless_the_images_are_the_runs(store, tmp_path, monkeypatch):
    def other(network, evaluations, x, labels, fresh):
        return run_sampler(network, evaluations, x, labels, fresh) + 2e-4

    monkeypatch.setattr("tractbench.export.exported.run_sampler", other)
    with pytest.raises(RunFailedError, match=r"differ from the run's by 0\.0002"):
        export_run(store("vp"), "safetensors", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_plugins_network_is_refused_where_its_code_would_be_copied(store, tmp_path):
    class Theirs(torch.nn.Identity):
        pass

    found = replace(exported(store("vp")), network=Theirs(), network_name="theirs")
    with pytest.raises(ConfigError, match=r"network 'theirs' is a plugin's.*--format onnx"):
        write_diffusers(found, tmp_path)


def test_a_missing_package_is_named_with_the_command(tractbench, store, monkeypatch):
    monkeypatch.setattr("tractbench.export.onnx_graph.PACKAGES", ("torch", "no_such_package"))
    done = tractbench("export", store("vp"), "--format", "onnx")
    assert (done.code, "no_such_package not installed; pip install no_such_package" in done.err) == (2, True)


def test_a_torch_that_cannot_write_onnx_is_named_with_the_remedy(tractbench, store, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.5.1+cpu"))
    done = tractbench("export", store("vp"), "--format", "onnx")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "needs torch 2.6 or newer, and 2.5.1+cpu is installed; pip install 'torch>=2.6'" in done.err
