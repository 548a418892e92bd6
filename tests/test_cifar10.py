"""CIFAR-10: what its files and its networks are."""

import gzip
import io
import tarfile
import zlib

import pytest
from data_files import cifar_files

from tractbench.datasets.cifar10 import CIFAR10
from tractbench.errors import DamagedFileError
from tractbench.nets.build import meta_network
from tractbench.progress import Progress
from tractbench.registry import load_dataset


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_an_archive_with_a_broken_stream_is_refused(tmp_path, where):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.add(cifar_files(tmp_path / "files") / "cifar-10-batches-py", "cifar-10-batches-py")
    content, middle = plain.getvalue(), int(where * len(plain.getvalue()))
    packer = zlib.compressobj(wbits=31)  # gzip
    head = packer.compress(content[:middle]) + packer.flush(zlib.Z_FULL_FLUSH)
    tail = packer.compress(content[middle:]) + packer.flush()
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(head + b"\x07" + tail[1:])  # a block of a type that there is not
    with pytest.raises(zlib.error):
        gzip.decompress(path.read_bytes())
    with pytest.raises(DamagedFileError, match="not a whole"):
        CIFAR10().prepare(path, Progress(), allow_deviation=True)


@pytest.mark.parametrize(
    ("dataset", "network", "process", "parameters"),
    [
        ("cifar10", "unet", "vp", 60_004_099),
        ("cifar10", "ncsnpp", "ve", 56_395_523),
        ("cifar10:conditional", "ncsnpp", "ve", 56_398_339),
        ("imagenet64", "unet", "vp", 295_905_222),
        ("imagenet64", "adm", "ve", 295_899_267),
    ],
)
def test_the_networks_are_of_the_published_sizes(dataset, network, process, parameters):
    preset = load_dataset(dataset).network(network, process)
    built = meta_network(preset.network, preset.arguments)
    assert sum(parameter.numel() for parameter in built.parameters()) == parameters
