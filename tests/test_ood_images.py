"""Out-of-distribution images: archives like the originals, made small, and those that need no network."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from late_phase.data import load, ood_images
from late_phase.support.errors import UserError

FOLDERS = {"lsun_resize": "LSUN_resize", "tiny_imagenet_resize": "Imagenet_resize"}
COUNT = 12


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Tiny:
    """An archive with few images, one of them grey, and the hidden files that some systems leave in archives."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root, self.folder = name, root, FOLDERS[name]
        self.pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
        self.pixels[3] = self.pixels[3, ..., :1]
        images = [pixels if i != 3 else pixels[..., 0] for i, pixels in enumerate(self.pixels)]
        self.files = {f"{self.folder}/{self.folder}/{i:04}.png": png(pixels) for i, pixels in enumerate(images)}

    def place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in {f"{self.folder}/._{self.folder}": b"", **self.files}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        (self.root / f"{self.folder}.tar.gz").write_bytes(buffer.getvalue())
        digest = hashlib.md5(buffer.getvalue(), usedforsecurity=False).hexdigest()
        original = ood_images.ARCHIVES[self.name]
        monkeypatch.setitem(ood_images.ARCHIVES, self.name, replace(original, urls=(), checksum=f"md5:{digest}"))

    def extract(self) -> Path:
        for name, content in self.files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(content)
        return self.root / self.folder

    def check(self) -> None:
        dataset = load(self.name, root=str(self.root))
        assert (dataset.name, dataset.classes, dataset.train) == (self.name, (), None)
        assert np.array_equal(dataset.test.pixels.permute(0, 2, 3, 1), self.pixels)
        assert dataset.test.labels.tolist() == [-1] * COUNT


@pytest.fixture(params=FOLDERS)
def tiny(request, tmp_path, monkeypatch) -> Tiny:
    monkeypatch.setattr(ood_images, "COUNT", COUNT)
    monkeypatch.setitem(ood_images.ARCHIVES, request.param, replace(ood_images.ARCHIVES[request.param], urls=()))
    return Tiny(request.param, tmp_path)


def test_an_archive(tiny, monkeypatch):
    tiny.place(monkeypatch)
    for _ in range(2):
        tiny.check()


def test_an_extracted_folder(tiny):
    tiny.extract()
    tiny.check()


def test_a_folder_where_images_are_missing_is_refused(tiny):
    next(tiny.extract().rglob("*.png")).unlink()
    with pytest.raises(UserError, match=rf"{tiny.folder} has 11 images instead of the 12 of .*: remove it to get it again\.$"):
        tiny.check()


def test_an_image_cut_short_is_refused(tiny):
    path = next(tiny.extract().rglob("*.png"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a readable image"):
        tiny.check()


def test_without_either_it_says_what_to_put_where(tiny):
    with pytest.raises(UserError, match=rf"{tiny.folder}\.tar\.gz \(md5 [0-9a-f]{{32}}\), which could not be downloaded"):
        tiny.check()


def test_the_originals_are_what_is_asked_for():
    """As pytorch-ood has them."""
    assert {name: (file.name, file.checksum, file.size) for name, file in ood_images.ARCHIVES.items()} == {
        "lsun_resize": ("LSUN_resize.tar.gz", "md5:278b7b31c8cb7e804a1465a8ce03a2dc", None),
        "tiny_imagenet_resize": ("Imagenet_resize.tar.gz", "md5:0f9ff11d45babf2eff5fe12281d1ac31", None),
    }
    assert ood_images.COUNT == 10_000


# --------------------------------------------------------------------------------------------------------------- embedded


@pytest.mark.parametrize("name", ["photo_patches", "digits_rotated", "noise"])
def test_embedded_images_are_always_the_same(name):
    torch.manual_seed(0)
    first = load(name)
    torch.manual_seed(1)
    again = load(name)
    assert torch.equal(first.test.pixels, again.test.pixels)
    assert (first.name, first.classes, first.train) == (name, (), None)
    assert first.test.shape == load("digits").test.shape and first.test.pixels.is_contiguous()
    assert first.test.pixels.dtype == torch.uint8 and set(first.test.labels.tolist()) == {-1}
    assert len({image.numpy().tobytes() for image in first.test.pixels}) > 0.99 * len(first.test), "and differ from one another"


def test_patches_are_those_of_the_photographs():
    pixels = load("photo_patches").test.pixels
    photos = [np.asarray(Image.fromarray(photo).convert("L")) for photo in load_sample_images().images]
    grid = [
        photo[row : row + 32, column : column + 32]
        for photo in photos
        for row in range(0, 427 - 31, 32)
        for column in range(0, 640 - 31, 32)
    ]
    assert len(pixels) == 520 and np.array_equal(pixels[:, 0], grid)


def test_rotations():
    original, rotated = load("digits").test.pixels[:, 0].numpy(), load("digits_rotated").test.pixels[:, 0].numpy()
    for i in (0, 100, 359):
        for turn in range(3):
            assert np.array_equal(rotated[360 * turn + i], np.rot90(original[i], turn + 1))


def test_noise_is_uniform():
    pixels = load("noise").test.pixels
    counts = torch.bincount(pixels.flatten().long(), minlength=256).double()
    expected = pixels.numel() / 256
    assert len(counts) == 256 and ((counts - expected) ** 2 / expected).sum() < 255 + 5 * (2 * 255) ** 0.5
