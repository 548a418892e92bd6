"""Samples in the shapes in which people have them: read right, asked about, or refused in one line."""

import argparse
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tractbench.errors import ConfigError, DamagedFileError, TractbenchError
from tractbench.evaluation.images import open_samples
from tractbench.evaluation.protocols import PROTOCOLS
from tractbench.evaluation.sample_set import Reading
from tractbench.registry import load_dataset

ROWS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
IMAGES = torch.from_numpy(ROWS).permute(0, 3, 1, 2)


def png(row):
    file = io.BytesIO()
    Image.fromarray(row).save(file, "PNG")
    return file.getvalue()


def read(where, **said):
    return torch.cat(list(open_samples(where, Reading(**said)).read()))


def same(where, **said):
    return torch.equal(read(where, **said), IMAGES)


def folder_of(path, rows=ROWS, first=0):
    path.mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(rows):
        (path / f"{first + index:03d}.png").write_bytes(png(row))
    return path


# Arrays


def test_arrays_of_either_layout_in_every_file(tmp_path):
    first = ROWS.transpose(0, 3, 1, 2).copy()
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", first)
    np.savez(tmp_path / "c.npz", first)
    torch.save(torch.from_numpy(ROWS), tmp_path / "d.pt")
    torch.save(torch.from_numpy(first).long(), tmp_path / "e.pt")
    np.save(tmp_path / "f.npy", first.astype(np.uint16))
    for name in ("a.npy", "b.npy", "c.npz", "d.pt", "e.pt", "f.npy"):
        assert same(tmp_path / name), name


def test_what_was_chosen_is_said(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.zeros(7), samples=ROWS)
    assert open_samples(tmp_path / "a.npz").notes == ("array 'samples'", "read as [N, H, W, C]")


def test_a_layout_that_is_not_clear_is_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(18, dtype=np.uint8).reshape(1, 3, 2, 3))
    with pytest.raises(ConfigError, match="say --layout nchw or nhwc"):
        open_samples(tmp_path / "a.npy")
    assert open_samples(tmp_path / "a.npy", Reading(layout="nchw")).shape == (3, 2, 3)
    assert open_samples(tmp_path / "a.npy", Reading(layout="nhwc")).shape == (3, 3, 2)


def test_an_npz_that_was_packed_again_on_a_mac(tmp_path):
    np.savez(tmp_path / "a.npz", ROWS)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("__MACOSX/._arr_0.npy", b"no array")
    assert same(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.pt"])
def test_one_of_two_arrays_of_images_is_asked_for(tmp_path, name):
    if name == "a.npz":
        np.savez(tmp_path / name, arr_0=ROWS, other=ROWS[::-1])
    else:
        torch.save({"arr_0": IMAGES.clone(), "other": IMAGES.flip(0)}, tmp_path / name)
    with pytest.raises(ConfigError, match="2 arrays of images: arr_0, other; choose one with --key"):
        open_samples(tmp_path / name)
    assert same(tmp_path / name, key="arr_0")
    assert torch.equal(read(tmp_path / name, key="other"), IMAGES.flip(0))
    with pytest.raises(ConfigError, match="did you mean 'other'"):
        open_samples(tmp_path / name, Reading(key="othr"))


@pytest.mark.parametrize("name", ["samples", "images", "arr_0", "x"])
def test_a_dictionary_with_one_tensor_of_images(tmp_path, name):
    torch.save({"labels": torch.zeros(7), name: IMAGES.clone(), "step": 3}, tmp_path / "a.pt")
    assert same(tmp_path / "a.pt")


def test_files_of_the_format_before_zips(tmp_path):
    torch.save(IMAGES.clone(), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert same(tmp_path / "a.pt")


def test_integers_that_are_no_grey_levels(tmp_path):
    np.save(tmp_path / "a.npy", ROWS.astype(np.int32) + 1)
    with pytest.raises(ConfigError, match="outside of 0 to 255"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("protocol", ["tract", "adm"])
def test_half_precisions_score_as_their_own_float_copy(tmp_path, dtype, protocol):
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.save(images.to(dtype), tmp_path / "a.pt")
    dataset = load_dataset("cifar10")
    expected = PROTOCOLS[protocol].quantised(images.to(dtype).float(), dataset)
    assert torch.equal(PROTOCOLS[protocol].quantised(images.to(dtype), dataset), expected)
    assert torch.equal(PROTOCOLS[protocol].quantised(read(tmp_path / "a.pt"), dataset), expected)


@pytest.mark.parametrize("undershoot", [0.0, -0.003, -0.09])
@pytest.mark.parametrize("overshoot", [1.0, 1.002])
def test_floats_in_the_unit_interval_are_not_taken_for_signed_ones(tmp_path, undershoot, overshoot):
    unit = ROWS / 255
    unit[0, 0, 0, 0], unit[-1, -1, -1, -1] = undershoot, overshoot
    np.save(tmp_path / "a.npy", unit)
    with pytest.raises(ConfigError, match=r"2 x - 1 or say --range unit"):
        open_samples(tmp_path / "a.npy")
    found = read(tmp_path / "a.npy", values="unit").permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, 2 * unit.clip(0, 1) - 1, rtol=0, atol=1e-15)


def test_bright_signed_floats_are_taken_where_the_user_says_so(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 8, 8, 3), 0.5))
    assert bool((read(tmp_path / "a.npy", values="signed") == 0.5).all())


def test_unusual_tensors_are_refused(tmp_path):
    unusual = {
        "float8": IMAGES.float().to(torch.float8_e4m3fn),
        "sparse": IMAGES.float().to_sparse(),
        "meta": torch.empty(7, 3, 8, 8, device="meta"),
        "bool": IMAGES > 3,
    }
    for name, tensor in unusual.items():
        torch.save(tensor, tmp_path / f"{name}.pt")
        with pytest.raises((ConfigError, DamagedFileError), match=r"\.pt .*;") as caught:
            open_samples(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)


# Pictures


def test_linked_folders_are_read_and_hidden_files_are_not(tmp_path):
    folder_of(tmp_path / "set" / "a", ROWS[:3])
    folder_of(tmp_path / "elsewhere", ROWS[3:], first=3)
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    folder_of(tmp_path / "set" / ".thumbnails", ROWS[:2])
    (tmp_path / "set" / "b" / ".DS_Store").write_bytes(b"")
    (tmp_path / "set" / "labels.txt").write_text("")
    found = open_samples(tmp_path / "set")
    assert same(tmp_path / "set")
    assert found.notes == ("3 hidden files, passed over: .thumbnails/000.png, ...",
                           "1 files that are no PNG, passed over: labels.txt")  # fmt: skip


def test_a_link_to_a_folder_above_ends(tmp_path):
    folder_of(tmp_path / "set" / "a")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    with pytest.raises(ConfigError, match="remove the link"):
        open_samples(tmp_path / "set")


def zip_of(path, names, **how):
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, row in zip(names, ROWS, strict=True):
            archive.writestr(zipfile.ZipInfo(name), png(row))
    return path


def test_zips_made_on_a_mac_and_on_windows(tmp_path):
    names = [f"{index // 4}/{index}.png" for index in range(7)]
    mac = zip_of(tmp_path / "mac.zip", [f"set/{name}" for name in names])
    with zipfile.ZipFile(mac, "a") as archive:
        for name in ("__MACOSX/set/0/._0.png", "set/0/._0.png", "set/.DS_Store"):
            archive.writestr(name, b"no picture")
    assert same(mac)
    # a name with backslashes, as some of Windows' tools write it; zipfile itself would turn them on Windows
    assert same(zip_of(tmp_path / "windows.zip", [name.replace("/", "\\") for name in names]))


def test_a_name_that_a_zip_has_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        zip_of(tmp_path / "a.zip", ["a.png"] * 7)
    with pytest.raises(DamagedFileError, match=r"holds a\.png twice"):
        open_samples(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("offset", "value", "message"), [(10, 9, "Deflate64"), (10, 93, "Zstandard"), (8, 1, "encrypted")]
)
def test_zips_that_python_cannot_read(tmp_path, offset, value, message):
    content = bytearray(zip_of(tmp_path / "a.zip", [f"{index}.png" for index in range(7)]).read_bytes())
    start = content.index(b"PK\1\2")  # the central directory's first entry: flags at 8, method at 10
    content[start + offset : start + offset + 2] = value.to_bytes(2, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        open_samples(tmp_path / "a.zip")
    assert "give the folder or a zip" in str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_damage_in_packed_members(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", png(np.zeros((8, 8, 3), np.uint8)) + bytes(4000))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for place in range(35, 80, 3):
        changed = content.copy()
        changed[place] ^= 255
        (tmp_path / "a.zip").write_bytes(changed)
        try:
            read(tmp_path / "a.zip")
        except TractbenchError as error:
            assert "\n" not in str(error)  # noqa: PT017 - the change may also hit what no reader looks at


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tars_and_webdataset_shards(tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
        for index, row in reversed(list(enumerate(ROWS))):
            for member, content in ((f"./{index:06d}.png", png(row)), (f"./{index:06d}.cls", b"3")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    assert same(tmp_path / name)
    assert "7 files that are no PNG" in open_samples(tmp_path / name).notes[0]


# Shards


def test_links_in_archives_are_read_or_refused(tmp_path):
    folder = folder_of(tmp_path / "a" / "x", ROWS[:3])
    os.link(folder / "000.png", folder / "003.png")
    (folder / "004.png").symlink_to("001.png")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a", "a")
        assert sum(member.islnk() or member.issym() for member in archive.getmembers()) == 2
    assert torch.equal(read(tmp_path / "a.tar"), IMAGES[[0, 1, 2, 0, 1]])
    (tmp_path / "a" / "y").symlink_to("../b")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path / "a", "a")
    with pytest.raises(ConfigError, match=r"a/y is a link to \.\./b, which is no file in it; use tar -h"):
        open_samples(tmp_path / "b.tar")
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.add(folder / "002.png", "a/x/000.png")
    with pytest.raises(DamagedFileError, match="twice"):
        open_samples(tmp_path / "a.tar")
    link = zipfile.ZipInfo("y")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("000.png", png(ROWS[0]))
        archive.writestr(link, "../b")
    with pytest.raises(ConfigError, match="y is a link, and not what it leads to; zip without -y"):
        open_samples(tmp_path / "c.zip")


@pytest.mark.parametrize("kind", ["JPEG", "WebP", "GIF", "BMP", "TIFF"])
def test_a_picture_of_another_format_under_the_name_of_a_png_is_called_one(tmp_path, kind):
    Image.fromarray(ROWS[0]).save(folder_of(tmp_path / "a") / "003.png", kind)
    with pytest.raises(ConfigError, match=rf"003.png is a {kind} file that is called PNG; save every sample as PNG"):
        read(tmp_path / "a")


def test_shards_of_one_set(tmp_path):
    for index, part in enumerate((ROWS[:3], ROWS[3:])):
        np.savez(tmp_path / f"part-{index}.npz", part)
    paths = [tmp_path / "part-0.npz", tmp_path / "part-1.npz"]
    for where in (paths, tmp_path, tmp_path / "part-*.npz"):
        assert same(where)
    assert torch.equal(read(paths[::-1]), torch.cat([IMAGES[3:], IMAGES[:3]]))
    assert open_samples(paths).source == f"{paths[0]} and 1 more files"


def test_shards_that_are_pictures(tmp_path):
    folder_of(tmp_path / "a", ROWS[:3])
    folder_of(tmp_path / "b", ROWS[3:])
    assert same([tmp_path / "a", tmp_path / "b"])


def test_what_is_not_of_one_set(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", ROWS[:, :4])
    np.savez(tmp_path / "c.npz", ROWS)
    with pytest.raises(ConfigError, match="give shards of one set"):
        open_samples([tmp_path / "a.npy", tmp_path / "b.npy"])
    with pytest.raises(ConfigError, match=r"several kinds \(\.npy, \.npz\)"):
        open_samples(tmp_path)


# Damage


def small_files(folder):
    np.save(folder / "a.npy", ROWS[:2])
    np.savez(folder / "a.npz", ROWS[:2])
    torch.save(IMAGES[:2].clone(), folder / "new.pt")
    torch.save(IMAGES[:2].clone(), folder / "old.pt", _use_new_zipfile_serialization=False)
    with tarfile.open(folder / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(png(ROWS[0]))
        archive.addfile(info, io.BytesIO(png(ROWS[0])))
    return [folder / name for name in ("a.npy", "a.npz", "new.pt", "old.pt", "a.tar")]


@pytest.mark.parametrize("index", range(5))
def test_a_file_cut_or_changed_in_its_header_is_no_traceback(tmp_path, index):
    path = small_files(tmp_path)[index]
    content = path.read_bytes()
    random = np.random.default_rng(index)
    cuts = [content[:length] for length in [0, 1, 7, 9, 30, *random.integers(0, len(content), 12)]]
    changes = []
    for place in [*range(0, 60, 4), *random.integers(0, len(content), 12)]:
        changed = bytearray(content)
        changed[place % len(content)] ^= 255
        changes.append(bytes(changed))
    for damaged in cuts + changes:
        path.write_bytes(damaged)
        try:
            read(path)
        except TractbenchError as error:
            assert "\n" not in str(error)  # noqa: PT017 - not every change is one that a reader sees
    path.write_bytes(content[: 600 if path.suffix == ".tar" else len(content) // 2])
    with pytest.raises(TractbenchError):
        read(path)


def test_torchs_advice_to_trust_a_file_is_not_passed_on(tmp_path):
    torch.save({"images": torch.from_numpy(ROWS), "arguments": argparse.Namespace(seed=1)}, tmp_path / "x.pt")
    with pytest.raises(DamagedFileError, match=r"Unsupported global: GLOBAL argparse.Namespace[)]; make or fetch"):
        read(tmp_path / "x.pt")


def test_a_header_that_promises_more_than_there_is(tmp_path):
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 64, 64, 3)}
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DamagedFileError, match="ends before its 1,000,000,000,000 rows"):
        open_samples(tmp_path / "a.npy")


# Through the command


def test_points_of_analytic_data_are_scored(tractbench, tmp_path):
    dataset = load_dataset("gaussian:3")
    points = dataset.distribution.draw(400, "tests") * 50  # far beyond [-1, 1]
    np.save(tmp_path / "flat.npy", points.flatten(1).numpy())
    torch.save({"x": points}, tmp_path / "deep.pt")
    found = [
        tractbench("evaluate", tmp_path / name, "--dataset", "gaussian:3", "--json") for name in ("flat.npy", "deep.pt")
    ]
    assert [one.code for one in found] == [0, 0], found[0].err
    scores = [one.json["evaluations"][0]["scores"] for one in found]
    assert scores[0] == scores[1]
    from tractbench.evaluation.frechet import Gaussian, frechet_distance

    rows = points.flatten(1).double()
    truth = Gaussian(dataset.distribution.mean, dataset.distribution.covariance)
    assert scores[0]["fd_exact"][0] == pytest.approx(frechet_distance(Gaussian(rows.mean(0), rows.T.cov()), truth))


def test_a_single_sample_and_levels_of_nothing(tractbench, tmp_path):
    np.save(tmp_path / "one.npy", np.full((1, 8, 8, 1), 9, np.uint8))
    np.save(tmp_path / "bits.npy", (ROWS[..., :1] > 99).astype(np.uint8))
    refused = tractbench("evaluate", tmp_path / "one.npy", "--dataset", "digits", "--allow-deviation")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "single sample" in refused.err
    refused = tractbench("evaluate", tmp_path / "bits.npy", "--dataset", "digits", "--allow-deviation")
    assert refused.code == 2
    assert "no grey level above 1" in refused.err
    options = ("--dataset", "digits", "--allow-deviation", "--range", "levels", "-q")
    assert tractbench("evaluate", tmp_path / "bits.npy", *options).code == 0


def test_the_contact_sheet_shows_what_was_read(tractbench, tmp_path):
    digits = load_dataset("digits").held_out[:9]
    np.save(tmp_path / "a.npy", digits.numpy())
    done = tractbench(
        "evaluate", tmp_path / "a.npy", "--dataset", "digits", "--allow-deviation", "--preview", tmp_path / "s.png"
    )
    assert done.code == 0, done.err
    assert "read as [N, C, H, W]" in done.out
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (17, 71)  # two rows of eight, with a pixel between
    np.testing.assert_array_equal(sheet[9:, :8], (digits[8, 0].double() * 255 / 16).round().numpy())


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
def test_a_hidden_folder_that_is_given_itself_is_read(tmp_path):
    assert same(folder_of(tmp_path / ".samples"))


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.pt", "x.zip", "x.tar", "x.tar.gz"])
def test_a_page_in_place_of_samples_is_called_one(tmp_path, name):
    (tmp_path / name).write_text("<!DOCTYPE html>\n<html><body>404</body></html>")
    with pytest.raises(DamagedFileError, match="is a web page, not samples; fetch it again"):
        open_samples(tmp_path / name)
