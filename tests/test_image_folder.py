"""Folders of real image files, made here, against the pixels they were made from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from late_phase.data import load
from late_phase.data.images import Dataset
from late_phase.support import memory
from late_phase.support.errors import UserError


def noise(seed: int, height: int = 6, width: int = 6, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes with two training images and one test image each."""
    for seed, name in enumerate(("train/cat/a", "train/cat/b", "train/dog/a", "train/dog/b", "test/cat/a", "test/dog/a")):
        save(tmp_path / "pets" / f"{name}.png", noise(seed))
    return tmp_path / "pets"


def read(root: Path, image_size: int | None = None) -> Dataset:
    return load("image_folder", root=str(root), image_size=image_size, cache=str(root.parent / "cache"))


def cached(root: Path) -> list[Path]:
    return sorted((root.parent / "cache").glob("*.safetensors"))


def pixels(dataset: Dataset, i: int) -> np.ndarray:
    return dataset.train.pixels[i].permute(1, 2, 0).numpy()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------------------------------ images


def test_pixels_labels_and_classes(root):
    dataset = read(root)
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.pixels.shape == (4, 3, 6, 6) and dataset.train.pixels.dtype == torch.uint8
    assert dataset.train.labels.tolist() == [0, 0, 1, 1] and dataset.train.labels.dtype == torch.int64
    assert dataset.test.labels.tolist() == [0, 1]
    for i in range(4):
        assert np.array_equal(pixels(dataset, i), noise(i))
    for i in range(2):
        assert np.array_equal(dataset.test.pixels[i].permute(1, 2, 0).numpy(), noise(4 + i))
    assert dataset.validation is None


def test_classes_are_in_alphabetical_order_however_they_were_made(tmp_path):
    names = ("b", "10", "a", "9", "B")
    for seed, name in enumerate(names):
        for split in ("test", "train"):
            save(tmp_path / "set" / split / name / "x.png", noise(seed))
    dataset = read(tmp_path / "set")
    assert dataset.classes == ("10", "9", "B", "a", "b")
    for label, name in enumerate(dataset.classes):
        assert dataset.train.labels[label] == label
        assert np.array_equal(pixels(dataset, label), noise(names.index(name)))


def test_many_images_stay_in_order(tmp_path):
    """More than there are threads to decode them."""
    for i in range(150):
        save(tmp_path / "set/train/a" / f"{i:03}.png", noise(i, 3, 3))
    save(tmp_path / "set/test/a/0.png", noise(0, 3, 3))
    dataset = read(tmp_path / "set")
    assert all(np.array_equal(pixels(dataset, i), noise(i, 3, 3)) for i in range(150))


def test_every_kind_of_png_becomes_rgb(root):
    colour, grey, alpha = noise(20), noise(21, channels=1)[..., 0], noise(22, channels=4)
    palette, index = noise(23, 1, 16)[0], noise(24, channels=1)[..., 0] % 16
    folder = root / "train/dog"
    save(folder / "1.png", colour)
    save(folder / "2.PNG", grey)
    save(folder / "3.png", alpha)
    indexed = Image.frombytes("P", (6, 6), index.tobytes())
    indexed.putpalette(palette.flatten().tolist())
    indexed.save(folder / "4.png")
    save(folder / "5.png", grey > 127)
    dataset = read(root)
    expected = [colour, grey[..., None].repeat(3, 2), alpha[..., :3], palette[index], ((grey > 127) * 255)[..., None].repeat(3, 2)]
    for i, image in enumerate(expected):
        assert np.array_equal(pixels(dataset, 2 + i), image), i + 1


@pytest.mark.parametrize("extension", [".bmp", ".ppm", ".tif", ".tiff"])
def test_other_lossless_formats(root, extension):
    save(root / f"train/dog/0{extension}", noise(30))
    assert np.array_equal(pixels(read(root), 2), noise(30))


@pytest.mark.parametrize("extension", [".jpg", ".JPEG", ".jpeg"])
def test_jpeg_is_as_pillow_reads_it(root, extension):
    """Nearly the smooth image that was saved, and a grey one has three equal channels."""
    ramp = np.linspace(0, 250, 6 * 6).reshape(6, 6).astype(np.uint8)
    smooth = np.stack((ramp, ramp.T, 255 - ramp), 2)
    colour = save(root / f"train/dog/0{extension}", smooth, format="JPEG", quality=98, subsampling=0)
    save(root / f"train/dog/1{extension}", ramp, format="JPEG", quality=98)
    dataset = read(root)
    with Image.open(colour) as image:
        assert np.array_equal(pixels(dataset, 2), np.asarray(image))
    assert np.abs(pixels(dataset, 2).astype(int) - smooth).max() < 12
    grey = pixels(dataset, 3)
    assert np.abs(grey.astype(int) - ramp[..., None]).max() < 6
    assert (grey == grey[..., :1]).all()


def test_images_in_nested_folders_count(root):
    save(root / "train/cat/2024/may/z.png", noise(40))
    dataset = read(root)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert any(np.array_equal(pixels(dataset, i), noise(40)) for i in range(3))


def test_hidden_files_and_other_files_do_not(root):
    expected = read(root)
    (root / "train/cat/.hidden.png").write_bytes(b"no image")
    (root / "train/cat/Thumbs.db").write_bytes(b"no image")
    (root / "train/cat/notes.png.txt").write_text("no image")
    (root / "train/cat/png").write_text("no image")
    (root / "train/README.md").write_text("no class")
    (root / "train/.cache").mkdir()
    (root / "train/.cache/a.png").write_bytes(b"no image")
    found = read(root)
    assert found.classes == expected.classes
    assert torch.equal(found.train.pixels, expected.train.pixels)


def test_scaling_is_to_the_shorter_side_and_the_centre(root):
    """An image of 12 x 20 whose middle 12 x 12 is red on the left and blue on the right, and whose ends are green: halved."""
    wide = np.zeros((12, 20, 3), np.uint8)
    wide[:, :4, 1] = wide[:, 16:, 1] = 255
    wide[:, 4:10, 0] = wide[:, 10:16, 2] = 255
    save(root / "train/dog/0.png", wide)
    save(root / "train/dog/1.png", wide.transpose(1, 0, 2))
    save(root / "train/dog/2.png", np.full((2, 3, 3), 77, np.uint8))
    dataset = read(root, image_size=6)
    assert dataset.train.pixels.shape == (7, 3, 6, 6)
    for found in (pixels(dataset, 2), pixels(dataset, 3).transpose(1, 0, 2)):
        assert (found[:, 0, 0] > 200).all() and (found[:, 1] == [255, 0, 0]).all()
        assert (found[:, 5, 2] > 200).all() and (found[:, 4] == [0, 0, 255]).all()
        assert (found[:, 1:5, 1] == 0).all()
    assert (pixels(dataset, 4) == 77).all()
    assert np.array_equal(pixels(dataset, 0), noise(0)), "of the right size already"


# ------------------------------------------------------------------------------------------------------------------- cache


def spoil(path: Path) -> None:
    """Makes a file unreadable as an image such that its size and time don't tell."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_second_time_no_image_is_opened(root):
    first = read(root)
    for path in root.rglob("*.png"):
        spoil(path)
    second = read(root)
    for a, b in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)


def test_a_change_is_noticed(root):
    """Of the contents, and each time the cache is as good as new afterwards."""
    read(root)
    path = root / "train/cat/b.png"
    mtime = path.stat().st_mtime_ns
    save(path, noise(50))
    os.utime(path, ns=(mtime + 1, mtime + 1))
    assert np.array_equal(pixels(read(root), 1), noise(50))
    save(root / "train/cat/c.png", noise(51))
    assert np.array_equal(pixels(read(root), 2), noise(51))
    (root / "train/cat/a.png").unlink()
    dataset = read(root)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(pixels(dataset, 0), noise(50))
    (root / "train/dog/b.png").rename(root / "train/cat/d.png")
    dataset = read(root)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1]
    assert np.array_equal(pixels(dataset, 2), noise(3))
    spoil(root / "train/cat/d.png")
    assert torch.equal(read(root).train.pixels, dataset.train.pixels)


def test_the_image_size_belongs_to_the_cache(root):
    for image_size in (None, 3, 6, 4):
        assert read(root, image_size).train.pixels.shape[-1] == (image_size or 6)


def test_folders_share_a_cache_without_mixing(root):
    read(root)
    twin = root.parent / "twin"
    for seed, name in enumerate(("train/cat/a", "train/cat/b", "train/dog/a", "train/dog/b", "test/cat/a", "test/dog/a")):
        path = save(twin / f"{name}.png", noise(60 + seed))
        original = (root / f"{name}.png").stat()
        os.utime(path, ns=(original.st_atime_ns, original.st_mtime_ns))
    assert np.array_equal(pixels(read(twin), 0), noise(60))
    assert np.array_equal(pixels(read(root), 0), noise(0))


@pytest.mark.parametrize("damage", ["empty", "half", "other bytes", "removed"])
def test_a_damaged_cache_is_made_anew(root, damage):
    expected = read(root)
    written = {path: path.read_bytes() for path in cached(root)}
    assert len(written) == 2
    for path, content in written.items():
        if damage == "removed":
            path.unlink()
        else:
            path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "other bytes": b"\xff" * len(content)}[damage])
    assert torch.equal(read(root).train.pixels, expected.train.pixels)
    assert {path: path.read_bytes() for path in cached(root)} == written


def test_a_cache_of_other_images_is_not_taken(root):
    """A whole file with another fingerprint."""
    expected = read(root)
    for path in cached(root):
        with safe_open(path, "pt") as file:
            wrong = torch.zeros_like(file.get_tensor("pixels"))
        save_file({"pixels": wrong}, path, {"late_phase": "0" * 64})
    assert torch.equal(read(root).train.pixels, expected.train.pixels)


# ------------------------------------------------------------------------------------------------------------------ errors


def refused(root: Path, *fragments: str, image_size: int | None = None) -> None:
    """One sentence with these in it; the images are left alone, and no part of a file is left behind."""
    before = contents(root) if root.exists() else {}
    with pytest.raises(UserError) as error:
        read(root, image_size)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message
    for fragment in fragments:
        assert fragment in message, message
    assert (contents(root) if root.exists() else {}) == before
    left = sorted((root.parent / "cache").glob("*")) + sorted((root.parent / "cache").glob(".*"))
    assert all(path.suffix in (".lock", ".safetensors") and not path.name.startswith(".") for path in left), left
    for path in cached(root):  # that of the training images, where only the test images are at fault
        with safe_open(path, "pt") as file:
            assert len(file.get_tensor("pixels")) == len(list((root / "train").rglob("*.png")))


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", f"dataset.root={tmp_path / 'nowhere'} has no folder train: give a folder with train/<class>")


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_split(root, split):
    (root / split).rename(root / "elsewhere")
    refused(root, f"dataset.root={root} has no folder {split}")
    (root / split).write_text("a file")
    refused(root, f"dataset.root={root} has no folder {split}")


def test_no_classes(tmp_path):
    save(tmp_path / "flat/train/a.png", noise(0))
    save(tmp_path / "flat/test/a.png", noise(1))
    refused(tmp_path / "flat", f"dataset.root={tmp_path / 'flat'} has no class folders in train")


def test_an_empty_class(root):
    (root / "train/emu").mkdir()
    (root / "train/emu/readme.txt").write_text("none yet")
    refused(root, "has no image", str(root / "train/emu"))


def test_different_classes(root):
    save(root / "train/emu/a.png", noise(70))
    refused(root, "different classes in train and test (emu)")
    (root / "test/cat").rename(root / "test/cow")
    refused(root, "(cat, cow, emu)")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "content", ["truncated", "text", "empty", "damaged"], ids=["truncated PNG", "text file", "empty file", "damaged data"]
)
def test_an_unreadable_image(root, split, content):
    """Mended afterwards, the folder is read as if nothing had been."""
    path = save(root / split / "dog/b.png", noise(80, 6, 6))
    whole = path.read_bytes()
    middle = len(whole) // 2
    bad = {
        "truncated": whole[:middle],
        "text": b"this is no image\n",
        "empty": b"",
        "damaged": whole[:middle] + bytes(x ^ 255 for x in whole[middle : middle + 20]) + whole[middle + 20 :],
    }[content]
    path.write_bytes(bad)
    refused(root, str(path), "is not a readable image")
    path.write_bytes(whole)
    images = getattr(read(root), split)
    assert np.array_equal(images.pixels[-1].permute(1, 2, 0).numpy(), noise(80))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_images_cut_short_anywhere(root):
    """Either the whole image is there or the file is refused."""
    for name, options in (("b.png", {}), ("b.jpg", {"quality": 90}), ("b.bmp", {}), ("b.ppm", {}), ("b.tif", {})):
        path = save(root / "train/dog" / name, noise(90), **options)
        whole = path.read_bytes()
        expected = pixels(read(root), 3)
        for length in range(0, len(whole), max(len(whole) // 8, 1)):
            path.write_bytes(whole[:length])
            try:
                assert np.array_equal(pixels(read(root), 3), expected), (name, length)
            except UserError as error:
                assert str(path) in str(error)
        path.unlink()
        save(root / "train/dog/b.png", noise(3))


def test_sizes_that_differ(root):
    path = save(root / "train/dog/b.png", noise(3, 4, 5))
    sizes = f"{root / 'train/cat/a.png'} has 6 x 6", f"{path} has 5 x 4"
    refused(root, "the images differ in size", *sizes, "set dataset.image_size")
    assert read(root, image_size=6).train.pixels.shape == (4, 3, 6, 6)


def test_sizes_that_differ_between_the_splits(root):
    for name in ("cat", "dog"):
        save(root / f"test/{name}/a.png", noise(3, 4, 4))
    with pytest.raises(UserError, match=r"images of different sizes in train and test: set dataset\.image_size\.$"):
        read(root)
    assert read(root, image_size=4).test.pixels.shape == (2, 3, 4, 4)


def test_hidden_folder_inside_a_class(root):
    (root / "train/cat/.ipynb_checkpoints").mkdir()
    save(root / "train/cat/.ipynb_checkpoints/a-checkpoint.png", noise(9))
    assert len(read(root).train) == 4


def test_dangling_link(root):
    (root / "train/cat/z.png").symlink_to("nowhere.png")
    with pytest.raises(UserError):
        read(root)


def test_cache_without_metadata(root):
    expected = read(root)
    for path in cached(root):
        save_file({"pixels": torch.zeros(1)}, path)
    assert torch.equal(read(root).train.pixels, expected.train.pixels)


def test_cache_is_a_file(root):
    (root.parent / "cache").write_text("")
    with pytest.raises(UserError):
        read(root)


# ----------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("image_size", [None, 6])
def test_images_that_do_not_fit_into_the_memory(root, monkeypatch, image_size):
    """Four of 6 x 6 pixels take 432 bytes; one of them is opened at most, to see the size that is not asked for."""
    opened = [root / "train/cat/a.png"] if image_size is None else []
    bad = [path for path in root.rglob("*.png") if path not in opened]
    whole = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(b"no image")
    monkeypatch.setattr(memory, "available_memory", lambda: 431)
    what = "a set of 4 images of 6 x 6 pixels, such as " if image_size is None else "dataset.image_size=6 with 4 images"
    refused(root, what, "needs about 0.0 GiB of memory, and this machine has 0.0 GiB: ", image_size=image_size)
    for path, content in zip(bad, whole, strict=True):
        path.write_bytes(content)
    monkeypatch.setattr(memory, "available_memory", lambda: 432)
    assert len(read(root, image_size).train) == 4
