"""The distance to the teacher's full sampler."""

import pytest
import torch

from tractbench.diffusion.processes import VE, VP
from tractbench.diffusion.sampler import Sampler
from tractbench.evaluation import ends as module
from tractbench.evaluation.ends import ENDS, TeacherEnds
from tractbench.progress import Progress
from tractbench.registry import load_dataset

PROCESSES = [VP(), VE()]


class Told(Progress):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def teacher_ends(folder, denoiser, process, steps, hash_="a", **changes):
    return TeacherEnds(
        folder, denoiser, hash_, process, (2, 1, 1), steps, **{"solver": "ddim", "clip": False} | changes
    )


def unused(x, t, labels):
    raise AssertionError("the ends are known")


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_the_teacher_in_all_its_steps_has_no_error_and_is_sampled_once(tmp_path, process):
    teacher = load_dataset("mixture2d").exact_denoiser(process)
    first = teacher_ends(tmp_path, teacher, process, 40)
    assert first.error(teacher, Sampler.equal(40)) == 0.0
    assert first.error(teacher, Sampler.equal(4)) > 0
    second = teacher_ends(tmp_path, unused, process, 40)
    assert second.ends.shape == (ENDS, 2, 1, 1)
    assert second.ends.dtype == torch.float64
    assert second.error(teacher, Sampler.equal(40)) == 0.0


def test_each_sampler_is_measured_with_its_own_solver(tmp_path):
    process = VE()
    teacher = load_dataset("mixture2d").exact_denoiser(process)
    ends = teacher_ends(tmp_path, teacher, process, 40, solver="heun")
    assert ends.error(teacher, Sampler.equal(40, "heun")) == 0.0
    assert ends.error(teacher, Sampler.equal(40)) > ends.error(teacher, Sampler.equal(20, "heun")) > 0


def test_other_teachers_and_samplers_have_ends_of_their_own(tmp_path, monkeypatch):
    def denoiser(x, t, labels):
        return x / 2

    teacher_ends(tmp_path, denoiser, VP(), 4).prepare()
    changes = [{"clip": True}, {"hash_": "b"}, {"classes": 3}, {"precision": "bf16"}]
    others = [
        teacher_ends(tmp_path, denoiser, VP(), 8),
        teacher_ends(tmp_path, denoiser, VP(log_snr_max=10.0), 4),
        teacher_ends(tmp_path, denoiser, VE(4), 4),
        teacher_ends(tmp_path, denoiser, VE(4), 4, solver="heun"),
        *(teacher_ends(tmp_path, denoiser, VP(), 4, **change) for change in changes),
    ]
    for made, ends in enumerate(others, 2):
        ends.prepare()
        assert len(list(tmp_path.glob("*.npy"))) == made
    monkeypatch.setattr(module, "SCORING_VERSION", module.SCORING_VERSION + 1)
    teacher_ends(tmp_path, denoiser, VP(), 4).prepare()
    assert len(list(tmp_path.glob("*.npy"))) == len(others) + 2


@pytest.mark.parametrize("steps", [1, 5])
def test_a_constant_offset_has_its_squared_length_as_error(tmp_path, steps):
    def point(*value):
        return lambda x, t, labels: torch.tensor(value, dtype=torch.float64).reshape(1, 2, 1, 1).expand_as(x)

    ends = teacher_ends(tmp_path, point(0.2, -0.4), VE(), 40)
    # a point mass is reached from any noise in any number of steps, as sigma ends at 0; 0.3^2 + 0.4^2
    assert ends.error(point(0.5, 0.0), Sampler.equal(steps)) == pytest.approx(0.25, rel=1e-12)


def test_the_ends_are_of_512_noises_in_chunks_of_128(tmp_path):
    calls = []

    def denoiser(x, t, labels):
        calls.append(len(x))
        return x

    teacher_ends(tmp_path, denoiser, VP(), 2).prepare()
    assert ENDS == 512
    assert calls == [128] * (4 * 2)


@pytest.mark.parametrize("pattern", ["*.npy", "*.sha256"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_a_damaged_file_is_computed_again_to_the_same_bits(tmp_path, pattern, damage):
    teacher = load_dataset("mixture2d").exact_denoiser(VP())
    expected = teacher_ends(tmp_path, teacher, VP(), 8).ends
    (path,) = tmp_path.glob(pattern)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes(flipped if damage == "flipped" else whole[:-1])
    told = Told()
    assert torch.equal(teacher_ends(tmp_path, teacher, VP(), 8, progress=told).ends, expected)
    (message,) = told.messages
    assert "computed again" in message
    assert path.read_bytes() == whole
    silent = Told()
    assert torch.equal(teacher_ends(tmp_path, unused, VP(), 8, progress=silent).ends, expected)
    assert not silent.messages
