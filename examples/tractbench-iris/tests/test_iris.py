"""The mixture has the moments of the flowers that it is made from."""

import pytest
import torch

from tractbench_iris.dataset import Iris, measurements


def test_mean_and_covariance_are_those_of_all_flowers():
    iris, (points, species) = Iris(), measurements()
    assert torch.bincount(species).tolist() == [50, 50, 50]
    assert float(points.abs().max()) < 1
    # within the species and between them: the law of total covariance
    torch.testing.assert_close(iris.mean, points.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(iris.covariance, torch.cov(points.T, correction=0), rtol=0, atol=1e-12)


def test_the_first_species_has_fishers_means():
    centimetres = 4 * (Iris().means[0] + 1)  # Fisher 1936, table 2: Iris setosa
    assert centimetres.tolist() == pytest.approx([5.006, 3.428, 1.462, 0.246])
