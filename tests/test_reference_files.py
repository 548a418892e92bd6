"""Reference statistics that others publish: npz files, EDM2's pickles, and what is no covariance."""

import pickle

import numpy as np
import pytest
import torch

from tractbench.errors import DamagedFileError
from tractbench.evaluation import reference
from tractbench.evaluation.reference import import_reference

RANDOM = np.random.default_rng(0)
MU = RANDOM.standard_normal(6)
SIGMA = np.cov(RANDOM.standard_normal((6, 40)))


@pytest.fixture(autouse=True)
def _six(monkeypatch):
    monkeypatch.setattr(reference, "DIMENSIONS", 6)


def holds(path, covariance=SIGMA):
    gaussian = import_reference(path).gaussian
    return np.array_equal(gaussian.mean.numpy(), MU) and np.array_equal(gaussian.covariance.numpy(), covariance)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_edm2_are_read(tmp_path, protocol):
    content = {"fid": {"mu": MU, "sigma": SIGMA}, "fd_dinov2": {"mu": MU[:3], "sigma": SIGMA[:3, :3].copy()}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    assert holds(tmp_path / "a.pkl")


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_executes_nothing(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"fid": {"mu": MU, "sigma": Trap(tmp_path / "sprung")}}))
    with pytest.raises(DamagedFileError, match="holds no statistics"):
        import_reference(tmp_path / "a.pkl")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [{"fid": {"mu": MU}}, {"mu": MU}, [1], {"fid": {"mu": MU, "sigma": SIGMA > 0}}])
def test_pickles_of_something_else(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DamagedFileError, match=r"a\.pkl holds no statistics") as caught:
        import_reference(tmp_path / "a.pkl")
    assert "\n" not in str(caught.value)


def test_the_references_of_guided_diffusion(tmp_path):
    """They hold the samples too, and statistics of spatial features."""
    samples = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "VIRTUAL.npz", arr_0=samples, mu=MU, sigma=SIGMA, mu_s=MU[:2], sigma_s=SIGMA[:2, :2])
    assert holds(tmp_path / "VIRTUAL.npz")


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (SIGMA - 2 * np.eye(6) * SIGMA[0, 0], "no covariance"),
        (np.diag([1.0, 1, 1, 1, 1, -0.01]), "no covariance"),
        (np.zeros((6, 6)), "no covariance"),
        (SIGMA + 0j, "not of real floats"),
        (SIGMA.astype(np.int64), "not of real floats"),
    ],
)
def test_what_is_no_covariance_is_refused(tmp_path, sigma, message):
    np.savez(tmp_path / "a.npz", mu=MU, sigma=sigma)
    with pytest.raises(DamagedFileError, match=message):
        import_reference(tmp_path / "a.npz")


def test_a_covariance_of_few_images_or_in_single_precision_is_taken(tmp_path):
    rows = RANDOM.standard_normal((3, 6))
    np.savez(tmp_path / "a.npz", mu=MU, sigma=np.cov(rows.T))
    assert holds(tmp_path / "a.npz", np.cov(rows.T))
    single = np.cov(rows.T).astype(np.float32)
    np.savez(tmp_path / "b.npz", mu=MU, sigma=single)
    assert holds(tmp_path / "b.npz", single.astype(np.float64))
    assert torch.linalg.matrix_rank(import_reference(tmp_path / "a.npz").gaussian.covariance) == 2
