"""SVHN from a small file in the format of the original's."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import SVHN

from late_phase.data import load, svhn
from late_phase.support.errors import UserError


@pytest.fixture
def content(tmp_path, monkeypatch) -> dict[str, np.ndarray]:
    """``test_32x32.mat`` as MATLAB writes it: images last, labels from 1 to 10 in a column."""
    random = np.random.default_rng(0)
    content = {
        "X": random.integers(0, 256, (32, 32, 3, 25), dtype=np.uint8),
        "y": np.array([*range(1, 11), *random.integers(1, 11, 15)], np.uint8)[:, None],
    }
    path = tmp_path / "test_32x32.mat"
    savemat(path, content, do_compression=True)
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(svhn, "FILE", replace(svhn.FILE, urls=(), size=path.stat().st_size, checksum=f"md5:{digest}"))
    monkeypatch.setitem(SVHN.split_list, "test", [None, path.name, digest])
    return content


def test_pixels_and_labels(tmp_path, content):
    dataset = load("svhn", root=str(tmp_path))
    assert (dataset.name, dataset.classes, dataset.train) == ("svhn", tuple("0123456789"), None)
    images = dataset.test
    assert images.pixels.dtype == torch.uint8 and images.pixels.is_contiguous() and images.shape == (3, 32, 32)
    for i in range(25):
        assert np.array_equal(images.pixels[i].permute(1, 2, 0), content["X"][..., i])
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == [0 if label == 10 else label for label in content["y"][:, 0].tolist()]


def test_it_is_as_torchvision_reads_it(tmp_path, content):
    images, other = load("svhn", root=str(tmp_path)).test, SVHN(str(tmp_path), "test")
    assert np.array_equal(images.pixels, other.data) and np.array_equal(images.labels, other.labels)


def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="holds a damaged test_32x32"):
        load("svhn", root=str(tmp_path))


def test_the_original_is_what_is_asked_for():
    url, name, digest = SVHN.split_list["test"]
    assert (svhn.FILE.urls[0], svhn.FILE.name, svhn.FILE.checksum) == (url, name, f"md5:{digest}")
    assert Path(svhn.FILE.name).suffix == ".mat" and svhn.FILE.size == 64_275_384
