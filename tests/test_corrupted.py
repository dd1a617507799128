"""Corrupted test images: small files in the format of CIFAR-C's, and the digits against corruptions computed otherwise."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from late_phase.config.choices import CHOICES
from late_phase.data import CORRUPTED, CORRUPTED_OF, corrupted, load, load_corrupted
from late_phase.data.corrupted import EXTRA_CORRUPTIONS, PAPERS_CORRUPTIONS
from late_phase.support.errors import UserError

N = 7
"""Images of a corruption and severity, instead of 10,000."""
FOLDERS = {"cifar10_c": ("CIFAR-10-C", 10), "cifar100_c": ("CIFAR-100-C", 100)}


class Tiny:
    """All 19 files of N images for each severity, and the labels, five times the same."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root
        self.folder, self.classes = FOLDERS[name]
        random = np.random.default_rng(0)
        names = PAPERS_CORRUPTIONS + EXTRA_CORRUPTIONS
        self.pixels = {corruption: random.integers(0, 256, (5 * N, 32, 32, 3), dtype=np.uint8) for corruption in names}
        self.labels = np.tile(random.integers(0, self.classes, N).astype(np.uint8), 5)
        self.arrays = {f"{corruption}.npy": pixels for corruption, pixels in self.pixels.items()} | {"labels.npy": self.labels}

    def extract(self) -> Path:
        folder = self.root / self.folder
        folder.mkdir(parents=True)
        for name, array in self.arrays.items():
            np.save(folder / name, array)
        return folder

    def place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, array in self.arrays.items():
                file = io.BytesIO()
                np.save(file, array)
                member = tarfile.TarInfo(f"{self.folder}/{name}")
                member.size = len(file.getvalue())
                archive.addfile(member, io.BytesIO(file.getvalue()))
        content = buffer.getvalue()
        (self.root / f"{self.folder}.tar").write_bytes(content)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        source = corrupted.SOURCES[self.name]
        archive = replace(source.archive, urls=(), size=len(content), checksum=f"md5:{digest}")
        monkeypatch.setitem(corrupted.SOURCES, self.name, replace(source, archive=archive))

    def load(self, **options) -> corrupted.Corrupted:
        return load_corrupted(self.name, root=str(self.root), **options)

    def check(self) -> None:
        found = self.load()
        assert (found.name, found.classes, found.corruptions) == (self.name, self.classes, PAPERS_CORRUPTIONS)
        assert found.severities == (1, 2, 3, 4, 5)
        for corruption in found.corruptions:
            for severity in found.severities:
                images = found.images(corruption, severity)
                rows = slice((severity - 1) * N, severity * N)
                assert np.array_equal(images.pixels.permute(0, 2, 3, 1), self.pixels[corruption][rows])
                assert images.pixels.dtype == torch.uint8 and images.pixels.is_contiguous()
                assert images.labels.dtype == torch.int64 and images.labels.tolist() == self.labels[:N].tolist()


@pytest.fixture(params=FOLDERS)
def tiny(request, tmp_path, monkeypatch) -> Tiny:
    source = corrupted.SOURCES[request.param]
    monkeypatch.setitem(corrupted.SOURCES, request.param, replace(source, archive=replace(source.archive, urls=())))
    return Tiny(request.param, tmp_path)


# ---------------------------------------------------------------------------------------------------------------- CIFAR-C


def test_an_archive_is_verified_once(tiny, monkeypatch):
    tiny.place(monkeypatch)
    tiny.check()
    monkeypatch.setattr("late_phase.data.download._matches", lambda *_: pytest.fail("the archive was read again"))
    tiny.check()


def test_an_extracted_folder(tiny):
    tiny.extract()
    tiny.check()


def test_the_paper_has_fifteen_corruptions():
    """Hendrycks & Dietterich's four kinds: noise, blur, weather, digital."""
    assert len(PAPERS_CORRUPTIONS) == len(set(PAPERS_CORRUPTIONS)) == 15
    assert set(PAPERS_CORRUPTIONS) == {
        *("gaussian_noise", "shot_noise", "impulse_noise"),
        *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        *("snow", "frost", "fog", "brightness"),
        *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    }


def test_versions_tell_contents_apart(tiny):
    folder = tiny.extract()
    versions = [tiny.load().version, tiny.load(corruptions=("fog",)).version]
    for name in ("fog.npy", "labels.npy"):
        array = np.load(folder / name)
        array[0] ^= 1
        np.save(folder / name, array)
        versions.append(tiny.load().version)
    assert len(set(versions)) == 4 and tiny.load().version == versions[-1]


def test_others_on_request(tiny):
    tiny.extract()
    found = tiny.load(corruptions=("spatter", "fog"))
    assert found.corruptions == ("spatter", "fog")
    assert np.array_equal(found.images("spatter", 2).pixels.permute(0, 2, 3, 1), tiny.pixels["spatter"][N : 2 * N])
    with pytest.raises(UserError, match=r"corruption=frogs is unknown to .*: choose some of .*spatter.*\.$"):
        tiny.load(corruptions=("frogs",))


def test_what_is_not_there_is_refused(tiny):
    tiny.extract()
    found = tiny.load()
    with pytest.raises(UserError, match=r"corruption=spatter is unknown to .*: choose one of gaussian_noise.*\.$"):
        found.images("spatter", 1)
    for severity in (0, 6):
        with pytest.raises(UserError, match=rf"severity={severity} is out of range: choose from 1 to 5\.$"):
            found.images("fog", severity)


def test_only_what_is_asked_for_is_read(tiny, monkeypatch):
    """Not a byte of the images when it is loaded, and one severity's of one corruption at a time."""
    tiny.extract()
    mapped = []
    original = np.load

    def spy(path: Path, mmap_mode: str | None = None, **options) -> np.ndarray:
        assert mmap_mode == "r"
        mapped.append(Path(path).stem)
        return original(path, mmap_mode=mmap_mode, **options)

    monkeypatch.setattr(np, "load", spy)
    found = tiny.load()
    mapped.clear()
    images = found.images("fog", 3)
    assert sorted(mapped) == ["fog", "labels"]
    assert images.pixels.untyped_storage().nbytes() == N * 3072, "a copy, which holds on to no file"


@pytest.mark.parametrize("file", ["fog.npy", "labels.npy"])
@pytest.mark.parametrize("damage", ["absent", "empty", "shortened", "text", "pickle"])
def test_a_damaged_file_is_refused(tiny, tmp_path, file, damage):
    """Among them a pickle that would call code."""
    path = tiny.extract() / file
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return Path.touch, (trace,)

    if damage == "absent":
        path.unlink()
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    else:
        path.write_bytes({"empty": b"", "shortened": path.read_bytes()[:-1], "text": b"not an array"}[damage])
    with pytest.raises(UserError, match=rf"{file} is missing or damaged .*: remove .* to get it again\.$") as error:
        tiny.load()
    assert "\n" not in str(error.value) and not trace.exists()


def test_an_array_of_objects_is_not_unpickled(tiny, tmp_path):
    folder, trace = tiny.extract(), tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return Path.touch, (trace,)

    np.save(folder / "fog.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"fog\.npy is missing or damaged"):
        tiny.load()
    assert not trace.exists()


def test_arrays_that_do_not_fit_are_refused(tiny):
    folder = tiny.extract()

    def refused(name: str, array: np.ndarray, message: str) -> None:
        original = (folder / name).read_bytes()
        np.save(folder / name, array)
        with pytest.raises(UserError, match=message):
            tiny.load()
        (folder / name).write_bytes(original)
        tiny.load()

    refused("fog.npy", tiny.pixels["fog"][:-1], r"fog\.npy has the shape \(34, 32, 32, 3\), which doesn't fit 35 images")
    refused("fog.npy", tiny.pixels["fog"].astype(np.float32), "holds float32 instead of uint8")
    refused("fog.npy", tiny.pixels["fog"].transpose(0, 3, 1, 2), "has the shape")
    refused("labels.npy", tiny.labels[:-1], "five times the labels")
    refused("labels.npy", tiny.labels[:0], "five times the labels")
    refused("labels.npy", tiny.labels + np.uint8(tiny.classes), "five times the labels")
    refused("labels.npy", tiny.labels[:, None], "five times the labels")


def test_without_files_it_says_what_to_put_where(tiny):
    with pytest.raises(UserError, match=rf"lacks {tiny.folder}\.tar \(2,918,47\d,\d+ bytes, md5 \w{{32}}\)"):
        tiny.load()


# ----------------------------------------------------------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits_c() -> corrupted.Corrupted:
    return load_corrupted("digits_c")


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return load("digits").test.pixels.numpy().astype(np.float64) / 255


def test_digits_are_always_corrupted_in_the_same_way(digits_c):
    torch.manual_seed(5)
    again = load_corrupted("digits_c")
    assert digits_c.corruptions == (*("gaussian_noise", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),)
    labels = load("digits").test.labels
    for corruption in reversed(again.corruptions):
        images = again.images(corruption, 4)
        assert torch.equal(images.pixels, digits_c.images(corruption, 4).pixels)
        assert torch.equal(images.labels, labels)
        assert images.pixels.shape == (360, 1, 32, 32) and images.pixels.dtype == torch.uint8


def test_severities_are_more_and_more_severe(digits_c, clean):
    for corruption in digits_c.corruptions:
        images = [digits_c.images(corruption, severity).pixels.numpy() / 255 for severity in digits_c.severities]
        distances = [math.sqrt(((some - clean) ** 2).mean()) for some in images]
        assert distances == sorted(distances) and distances[0] > 0.02 and distances[4] > 1.5 * distances[0]


def strength(corruption: str, severity: int) -> float:
    return corrupted.DIGITS_CORRUPTIONS[corruption][0][severity - 1]


@pytest.mark.parametrize("severity", [1, 5])
def test_digits_corruptions_are_what_they_are_called(digits_c, clean, severity):
    def found(corruption: str) -> np.ndarray:
        return digits_c.images(corruption, severity).pixels.numpy() / 255

    brighter = np.clip(clean + strength("brightness", severity), 0, 1)
    assert np.abs(found("brightness") - brighter).max() < 0.6 / 255

    mean = clean.mean((2, 3), keepdims=True)
    flat = mean + strength("contrast", severity) * (clean - mean)
    assert np.abs(found("contrast") - flat).max() < 0.6 / 255

    middle = (clean > 0.4) & (clean < 0.6)  # where little is clipped at severity 1
    if severity == 1:
        assert (found("gaussian_noise") - clean)[middle].std() == pytest.approx(strength("gaussian_noise", 1), rel=0.02)

    sigma, position = strength("gaussian_blur", severity), np.arange(-100, 101)
    kernel = np.exp(-(position**2) / (2 * sigma**2)) * (abs(position) <= int(4 * sigma + 0.5))
    padded = np.pad(clean[:20, 0], ((0, 0), (100, 100), (100, 100)), "symmetric")
    rows = np.apply_along_axis(np.convolve, 1, padded, kernel / kernel.sum(), "valid")
    blurred = np.apply_along_axis(np.convolve, 2, rows, kernel / kernel.sum(), "valid")
    assert np.abs(found("gaussian_blur")[:20, 0] - blurred).max() < 0.6 / 255

    block = 32 // strength("pixelate", severity)
    means = clean[:, 0].reshape(360, 32 // block, block, 32 // block, block).mean((2, 4))
    assert np.abs(found("pixelate")[:, 0] - np.kron(means, np.ones((1, block, block)))).max() < 0.6 / 255

    for i in (0, 359):
        file = io.BytesIO()
        image = Image.fromarray(np.round(clean[i, 0] * 255).astype(np.uint8))
        image.save(file, "JPEG", quality=strength("jpeg_compression", severity))
        assert np.array_equal(np.asarray(Image.open(file)), np.round(found("jpeg_compression")[i, 0] * 255))


def test_noise_differs_between_severities(digits_c):
    """Otherwise five severities would be one draw at five scales."""
    low, high = (digits_c.images("gaussian_noise", severity).pixels.double().flatten() for severity in (1, 2))
    base = load("digits").test.pixels.double().flatten()
    inside = (base > 80) & (base < 170)
    correlation = torch.corrcoef(torch.stack([(low - base)[inside], (high - base)[inside]]))[0, 1]
    assert abs(correlation) < 0.05


def test_all_are_registered():
    assert set(CORRUPTED) == set(CORRUPTED_OF.values()) == {"cifar10_c", "cifar100_c", "digits_c"}
    assert set(CORRUPTED_OF) < set(CHOICES["dataset"])
