import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation import array_files
from tractbench.evaluation import png as png_files
from tractbench.evaluation.images import open_samples


def pictures(count=7, channels=3, size=8, seed=0):
    shape = (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(picture, **settings):
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, "PNG", **settings)
    return file.getvalue()


def save(path, rows):
    """Write a set in the format that the path's name says."""
    if path.suffix == "":
        for index, row in enumerate(rows):
            file = path / f"{index // 4:06d}" / f"{index:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(row))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for index, row in reversed(list(enumerate(rows))):
                archive.writestr(f"{index:06d}.png", png(row))
    elif path.suffix == ".npz":
        np.savez(path, labels=np.zeros(len(rows)), arr_0=rows)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(rows).permute(0, 3, 1, 2).contiguous(), path)
    return path


FORMATS = ("folder", "set.zip", "set.npz", "set.pt")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_images(tmp_path, monkeypatch, name, channels):
    for module in (array_files, png_files):
        monkeypatch.setattr(module, "BATCH", 3)
    rows = pictures(channels=channels)
    found = open_samples(save(tmp_path / name, rows))
    assert (found.count, found.shape, found.floats) == (7, (channels, 8, 8), False)
    for _ in range(2):
        batches = list(found.read())
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert torch.equal(torch.cat(batches), torch.from_numpy(rows).permute(0, 3, 1, 2))
        assert all(batch.dtype == torch.uint8 for batch in batches)


def test_a_compressed_npz_and_one_with_another_name(tmp_path):
    rows = pictures()
    np.savez_compressed(tmp_path / "a.npz", samples=rows)
    assert torch.equal(next(open_samples(tmp_path / "a.npz").read()), torch.from_numpy(rows).permute(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_floats_are_kept_for_the_protocol_to_quantise(tmp_path, dtype):
    rows = (pictures() / 127.5 - 1).astype(dtype)
    np.savez(tmp_path / "a.npz", rows)
    found = open_samples(tmp_path / "a.npz")
    assert found.floats
    np.testing.assert_array_equal(next(found.read()).numpy(), rows.transpose(0, 3, 1, 2))


def test_float_tensors(tmp_path):
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    torch.save(images, tmp_path / "a.pt")
    assert torch.equal(next(open_samples(tmp_path / "a.pt").read()), images)


@pytest.mark.parametrize(
    ("low", "high", "remedy"), [(0, 1, "2 x - 1"), (-1.01, 1, "clip"), (0, 255, "uint8"), (-1, np.nan, "not finite")]
)
@pytest.mark.parametrize("name", ["a.npz", "a.pt"])
def test_floats_of_another_range(tmp_path, name, low, high, remedy):
    rows = np.zeros((5, 8, 8, 3), np.float32) + max(low, 0)
    rows[0, 0, 0, 0], rows[-1, -1, -1, -1] = low, high
    with pytest.raises(ConfigError, match=remedy):
        open_samples(save(tmp_path / name, rows))


def test_a_set_is_never_held_whole(tmp_path, monkeypatch):
    for module in (array_files, png_files):
        monkeypatch.setattr(module, "BATCH", 10)
    rows = pictures(400, size=64)
    for name in ("a.npz", "a.pt"):
        found = open_samples(save(tmp_path / name, rows))
        tracemalloc.start()
        for _ in found.read():
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < rows.nbytes / 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "1"])
def test_pictures_of_another_mode(tmp_path, mode):
    Image.new(mode, (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=f"has mode {mode}, .*; save 8-bit RGB"):
        open_samples(tmp_path)


@pytest.mark.parametrize(("colour", "depth"), [(2, 16), (0, 4), (0, 2)])
def test_pictures_of_another_depth_are_not_rescaled(tmp_path, colour, depth):
    # PIL writes none of these: a PNG file by its specification
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + bytes(8 * depth * (3 if colour == 2 else 1) // 8)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0))]
    parts += [chunk(b"IDAT", zlib.compress(row * 8)), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(ConfigError, match=f"{depth} bits; save 8-bit RGB"):
        open_samples(tmp_path)


def test_a_picture_of_another_size_is_named(tmp_path):
    save(tmp_path / "set", pictures(5))
    (tmp_path / "set" / "zzz.png").write_bytes(png(pictures(1, size=9)[0]))
    with pytest.raises(ConfigError, match=r"zzz.png is 9x9 RGB, the first one, .*0.png, 8x8 RGB"):
        list(open_samples(tmp_path / "set").read())


def test_lossy_pictures_are_refused(tmp_path):
    save(tmp_path / "set", pictures(3))
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "x.jpg")
    with pytest.raises(ConfigError, match=r"x\.jpg is no PNG file"):
        open_samples(tmp_path / "set")


def test_what_is_no_set(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.rar").write_bytes(b"")
    torch.save({"a": torch.zeros(3)}, tmp_path / "dict.pt")
    torch.save(torch.zeros(3, 8, 8), tmp_path / "one.pt")
    torch.save(torch.zeros(3, 8, 8, 4, dtype=torch.uint8), tmp_path / "last.pt")
    torch.save(torch.zeros(3, 3, 8, 8, dtype=torch.complex64), tmp_path / "complex.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    np.savez(tmp_path / "flat.npz", np.zeros((3, 5)))
    np.savez(tmp_path / "first.npz", np.zeros((3, 4, 8, 8), np.uint8))
    np.savez(tmp_path / "long.npz", np.zeros((3, 3, 8, 8), np.longdouble))
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "order.npz", np.asfortranarray(pictures()))
    for name, message in {
        "empty": "no PNG file",
        "missing": "no samples at",
        "a.rar": "give a folder, zip or tar",
        "dict.pt": r"a is a tensor \[3\]; save",
        "list.pt": "holds a list; save one tensor",
        "one.pt": r"a tensor \[3, 8, 8\]",
        "last.pt": r"save the samples as \[N, C, H, W\], C 3 or 1",
        "complex.pt": "complex64; save uint8",
        "flat.npz": r"\[N, H, W, C\]",
        "first.npz": r"save the samples as \[N, H, W, C\], C 3 or 1",
        "long.npz": "save uint8",
        "none.npz": "holds no array",
        "order.npz": "C order",
    }.items():
        with pytest.raises(ConfigError, match=message) as caught:
            open_samples(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_is_damaged(tmp_path, name):
    path = save(tmp_path / name, pictures(40))
    file = sorted(path.rglob("*.png"))[-1] if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: -len(file.read_bytes()) // 2])
    with pytest.raises(DamagedFileError, match="make or fetch it again") as caught:
        list(open_samples(path).read())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["set.zip", "set.npz"])
def test_a_flipped_byte_is_noticed(tmp_path, name):
    path = save(tmp_path / name, pictures(40, size=32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        list(open_samples(path).read())


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", np.array([Trap(tmp_path / "sprung")], dtype=object))
    for name in ("a.pt", "a.npz"):
        with pytest.raises((ConfigError, DamagedFileError)):
            open_samples(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
