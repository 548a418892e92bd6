"""One run by several processes: the same numbers, one voice, one end."""

import csv
import gc
import json
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from processes import ranks

from tractbench.config.fields import RunConfig
from tractbench.diffusion.processes import VP
from tractbench.diffusion.sampler import Sampler
from tractbench.evaluation.ends import TeacherEnds
from tractbench.evaluation.part import merged, own_images
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.sampling import sample
from tractbench.evaluation.scorer import make_scorer
from tractbench.methods.tract import TRACT
from tractbench.registry import load_dataset
from tractbench.training.ahead import DEPTH, Ahead
from tractbench.training.batches import BLOCK, Batches
from tractbench.training.distillation import Distillation
from tractbench.training.parallel import Group, Processes, share

SMALL = (
    "--dataset",
    "digits",
    "--set",
    "grid_steps=8",
    "--samples",
    "230",
    "--sampling-seeds",
    "0",
    "--set",
    "chunk=40",
)
STEPS = 12
TRACT_RUN = ("run", "--method", "tract", *SMALL, "--schedule", "8,2,1", "--nfe", "1", "--batch", "80", "--budget",
             str(80 * STEPS), "--json")  # fmt: skip
DDIM_RUN = ("run", "--method", "ddim", *SMALL, "--nfe", "2", "--json")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tractbench")


@pytest.fixture
def launched(forked):
    """Runs a command in so many processes, in a folder; what rank 1 does at a step is said by ``processes.ranks``."""

    def run(folder, processes, step, what, *words):
        folder.mkdir(parents=True, exist_ok=True)
        done = forked(processes, step, what, *words, function=ranks, cwd=folder, OMP_NUM_THREADS="1")
        done.wait()
        return done

    return run


def ours(error):
    """What tractbench itself said, without the launcher's own report."""
    return [line for line in error.splitlines() if line.startswith("tractbench: ")]


def losses(folder):
    (path,) = folder.glob("runs/students/*/loss.csv")
    return [float(row["loss"]) for row in csv.DictReader(path.read_text().splitlines())]


def the_record(folder):
    (path,) = folder.glob("runs/cells/*/record.json")
    return json.loads(path.read_text())


def groups(size):
    return [Group("cpu", rank, size) for rank in range(size)]


@pytest.mark.parametrize(("count", "size"), [(8, 1), (8, 2), (8, 3), (2, 3), (0, 2)])
def test_shares_are_consecutive_and_even(count, size):
    shares = [share(count, rank, size) for rank in range(size)]
    assert [one for own in shares for one in own] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("size", "processes"), [(256, 3), (80, 2), (32, 2), (100, 5)])
def test_the_shares_of_a_batch_are_the_batch(size, processes):
    images = torch.arange(50.0).reshape(50, 1, 1, 1)
    batches = Batches(3, size, images, lambda x: x, None, True, "cpu")
    shares = [batches.share(rank, processes) for rank in range(processes)]
    drawn = [batches.draw(5, blocks) for blocks in shares if blocks]
    whole = batches.draw(5)
    assert torch.equal(torch.cat([one.noise for one in drawn]), whole.noise)
    assert torch.equal(torch.cat([one.index for one in drawn]), whole.index)
    assert all(len(one.u) % BLOCK == 0 for one in drawn[:-1])


def test_images_of_a_process_begin_where_all_pieces_do():
    for size in (1, 2, 3, 5):
        own = [own_images(1010, (40, 25), group) for group in groups(size)]
        assert [image for part in own for image in part] == list(range(1010))
        assert all(part.start % 200 == 0 for part in own if part)


@pytest.mark.parametrize("name", ["digits", "mixture2d"])
def test_parts_of_samples_score_as_the_whole(name):
    dataset = load_dataset(name)
    count, chunk = 300, 40
    images = dataset.held_out[:count]
    scorer = make_scorer(dataset, load_protocol(dataset.workload.protocol), chunk, count)
    whole = scorer.score([images])
    for size in (2, 3, 9):
        parts = [scorer.collect([images[own.start : own.stop]]) for own in
                 (own_images(count, (chunk, scorer.together), group) for group in groups(size))]  # fmt: skip
        assert scorer.finish(parts) == pytest.approx(whole, rel=1e-9, abs=1e-9)
    with pytest.raises(ValueError, match="nothing to merge"):
        merged([])


@pytest.mark.parametrize("size", [2, 3])
def test_processes_make_the_same_images_to_the_bit(size):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4), torch.nn.Unflatten(1, (1, 2, 2)))

    def denoiser(x, t, labels):
        return network(x.float()) / (1 + labels.reshape(-1, 1, 1, 1))

    def images(first, count):
        parts = sample(denoiser, VP(), (1, 2, 2), 4, count, Sampler.equal(2), chunk=16, first=first, classes=3)
        return torch.cat([torch.empty(0, 1, 2, 2, dtype=torch.float64), *parts])

    own = [own_images(100, (16,), group) for group in groups(size)]
    assert torch.equal(torch.cat([images(part.start, part.stop) for part in own]), images(0, 100))
    with pytest.raises(ValueError, match="multiples of 16"):
        images(8, 32)


def test_replicas_in_cycles_are_freed_before_the_connections_close(monkeypatch):
    class Replica:
        def __init__(self):
            self.itself, self.group = self, Processes("cpu", 0, 2)

    there = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: there.append(replica()))
    gc.disable()
    try:
        replica = weakref.ref(Replica())
        assert replica() is not None
        Processes("cpu", 0, 2).leave()
    finally:
        gc.enable()
    assert there == [None]


def test_results_made_ahead_are_those_of_their_integers_in_order():
    made = []

    def make(index):
        made.append(index)
        if index == 5:
            raise ValueError("five")
        return index * index

    ahead = Ahead(make, 8, "meta")  # any device but the CPU works beside it
    assert [ahead.take(index) for index in range(4)] == [0, 1, 4, 9]
    assert made == sorted(made)
    assert max(made) <= 3 + DEPTH
    assert ahead.take(4) == 16
    with pytest.raises(ValueError, match="five"):
        ahead.take(5)
    assert [ahead.take(index) for index in (2, 3, 7)] == [4, 9, 49]
    ahead.close()
    inline = Ahead(made.append, 8, "cpu")
    made.clear()
    inline.take(0)
    assert made == [0]


@pytest.fixture(scope="module")
def images():
    return torch.randn(40, 1, 2, 2, generator=torch.Generator().manual_seed(1))


def distillation(images, **how):
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4), torch.nn.Unflatten(1, (1, 2, 2)))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x, t, labels=None):
            return self.body(x.float())

    config = RunConfig.model_validate({
        "method": "tract", "dataset": "digits", "tier": "smoke", "process": "vp", "teacher": "t", "grid_steps": 8,
        "nfe": 1, "schedule": (8, 1), "budget": 70 * 40, "batch": 70, "lr": 1e-3, "samples": 2, "sampling_seeds": (0,),
        "protocol": "raw", "gradients": "clip_norm",
    })  # fmt: skip
    teacher = Network().requires_grad_(False).eval()
    return Distillation(config, TRACT(), VP(), teacher, images, **how)


def trained(run):
    while run.step < run.total:
        run.train_step()
    return [point.loss for point in run.losses], torch.cat([p.detach().flatten() for p in run.student.parameters()])


@pytest.mark.parametrize("micro_batch", [1, 32, 69, 70, 1000])
def test_micro_batches_change_rounding_only(images, micro_batch):
    expected = trained(distillation(images))
    found = trained(distillation(images, micro_batch=micro_batch))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)
    if micro_batch >= 70:
        assert torch.equal(found[1], expected[1])


def test_the_gradients_and_losses_of_shares_add_up(images):
    """Each process leaves its part times their number; three parts of two and a bit blocks have the whole's mean."""
    whole = distillation(images)
    parts = [distillation(images, group=Group("cpu", rank, 4)) for rank in range(4)]  # one of them has no block
    gradients = []
    for run in (whole, *parts):
        run.optimiser.zero_grad()
        loss = run._backward(run._examples(0), run.plan.phase, 0.0)
        gradients.append((loss, [p.grad.clone() for p in run.student.parameters()]))
    torch.testing.assert_close(sum(loss for loss, _ in gradients[1:]), gradients[0][0])
    for expected, *found in zip(*(one for _, one in gradients), strict=True):
        torch.testing.assert_close(sum(found) / 4, expected)


def test_two_and_three_processes_make_the_numbers_of_one(tractbench, launched, tmp_path):
    alone = tractbench(*TRACT_RUN, "--quiet").json
    expected = losses(tmp_path)
    for size, how in ((2, ()), (3, ("--micro-batch", "8"))):
        folder = tmp_path / str(size)
        found = launched(folder, size, STEPS, "digests", *TRACT_RUN, *how)
        assert found.code == 0, found.err
        assert json.loads(found.out)["identity"] == alone["identity"]
        assert found.err.count("tract on digits") == found.err.count("drawing samples") == 1
        assert losses(folder) == pytest.approx(expected, rel=1e-4)
        assert len({path.read_text() for path in folder.glob("digest-*")}) == 1
        assert len(list(folder.glob("digest-*"))) == size
        record = the_record(folder)
        assert record["environment"]["processes"] == size
        errors = [[one["error"] for one in each["distillation_errors"]] for each in (record, the_record(tmp_path))]
        assert errors[0] == pytest.approx(errors[1], rel=1e-3)
        assert len(Path(folder, "runs/records.jsonl").read_text().splitlines()) == 1


def test_two_processes_score_the_same_images_alike_and_find_a_run_done(tractbench, launched, tmp_path):
    alone = tractbench(*DDIM_RUN, "--quiet").json
    (tmp_path / "two").mkdir()
    command = [sys.executable, *TORCHRUN, *DDIM_RUN]
    found = subprocess.run(command, cwd=tmp_path / "two", capture_output=True, text=True, timeout=240, check=False)
    assert found.returncode == 0, found.stderr
    made = json.loads(found.stdout)
    for name, metric in alone["metrics"].items():
        assert made["metrics"][name]["per_seed"] == pytest.approx(metric["per_seed"], rel=1e-9), name
    assert made["floors"] == alone["floors"]
    again = launched(tmp_path, 2, 0, "digests", *DDIM_RUN)
    assert json.loads(again.out)["reused"]


def test_a_signal_to_one_process_saves_and_stops_all_and_another_number_goes_on(tractbench, launched, tmp_path):
    folder = tmp_path / "two"
    stopped = launched(folder, 2, 7, "SIGTERM", *TRACT_RUN)
    assert stopped.code != 0
    (line,) = ours(stopped.err)
    assert "stopped at training step 8 of 12" in line
    assert "exitcode  : 143" in stopped.err
    record = the_record(folder)
    assert record["status"] == "interrupted"
    assert json.loads(stopped.out)["status"] == "interrupted"
    resumed = tractbench(*TRACT_RUN, "--runs", folder / "runs")
    assert "resuming at step 8 of 12" in resumed.err
    assert resumed.json["status"] == "done"
    tractbench(*TRACT_RUN, "--quiet")
    assert losses(folder) == pytest.approx(losses(tmp_path), rel=1e-4)


@pytest.mark.parametrize("what", ["SIGKILL", "bug"])
def test_a_process_that_dies_ends_the_run_within_a_minute(launched, tmp_path, what):
    died = launched(tmp_path, 2, 7, what, *TRACT_RUN)
    ended = time.monotonic()
    assert died.code != 0
    assert ended - float(Path(tmp_path, "died").read_text()) < 60
    record = the_record(tmp_path)
    assert record["status"] == "failed"
    if what == "bug":
        assert record["reason"] == "ZeroDivisionError: a bug on rank 1"
        assert died.err.count("ZeroDivisionError: a bug on rank 1") == 1
        assert ours(died.err) == []
        (log,) = tmp_path.glob("runs/cells/*/log.txt")
        assert "ZeroDivisionError" in log.read_text()
    else:
        assert "another process of this run is gone" in record["reason"]
        assert len(ours(died.err)) == 1


def test_teacher_ends_are_shared_out_in_whole_chunks(tmp_path):
    class Rank(Group):
        def gather(self, value):
            shares.append(value)
            return [torch.cat(shares)]

    shares = []
    teacher = load_dataset("mixture2d").exact_denoiser(VP())
    asked = []

    def counted(x, t, labels=None):
        asked.append(len(x))
        return teacher(x, t, labels)

    ends = [TeacherEnds(tmp_path / str(rank), counted, "a", VP(), (2, 1, 1), 4, solver="ddim", clip=False,
                        group=Rank("cpu", rank, 3)) for rank in range(3)]  # fmt: skip
    for one in ends:
        one._samples(counted, Sampler.equal(4))
    whole = TeacherEnds(tmp_path / "whole", teacher, "a", VP(), (2, 1, 1), 4, solver="ddim", clip=False).ends
    assert torch.equal(torch.cat(shares), whole)
    assert set(asked) == {128}


@pytest.mark.parametrize(("device", "words"), [
    ("mps", "no float64"), ("cpu:1", "only GPUs have numbers"), ("cuda:77", "torch sees"), ("cudaa", "did you mean"),
])  # fmt: skip
def test_devices_that_cannot_be_used_are_refused_in_one_line(tractbench, device, words):
    result = tractbench(*DDIM_RUN, "--device", device)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1
