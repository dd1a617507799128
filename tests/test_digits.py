"""The embedded dataset against scikit-learn's originals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from sklearn.datasets import load_digits

from late_phase.data import load


def enlarged() -> np.ndarray:
    """All digits at 32 x 32 pixels, 0 to 255, unrounded: linear interpolation of rows and columns between the centres of pixels."""
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    lower = np.minimum(centres.astype(int), 6)
    weights = np.zeros((32, 8))
    weights[np.arange(32), lower] = 1 - (centres - lower)
    weights[np.arange(32), lower + 1] += centres - lower
    return weights @ (load_digits().images / 16) @ weights.T * 255


def test_images_are_all_of_scikit_learns_enlarged_with_their_labels():
    digits = load("digits")
    assert digits.train.pixels.shape == (1437, 1, 32, 32)
    assert digits.test.pixels.shape == (360, 1, 32, 32)
    assert digits.train.pixels.dtype == torch.uint8 and digits.train.labels.dtype == torch.int64
    assert digits.classes == tuple("0123456789")
    pixels = torch.cat((digits.train.pixels, digits.test.pixels))[:, 0].numpy()
    labels = torch.cat((digits.train.labels, digits.test.labels)).tolist()
    exact, target = enlarged(), load_digits().target
    # Each image's original is the nearest one, which must be it but for rounding.
    flat, wanted = pixels.reshape(1797, -1).astype(np.float64), exact.reshape(1797, -1)
    nearest = ((flat**2).sum(1)[:, None] - 2 * flat @ wanted.T + (wanted**2).sum(1)).argmin(1)
    assert sorted(nearest) == list(range(1797))
    assert np.abs(pixels - exact[nearest]).max() <= 0.5 + 1e-3
    assert labels == target[nearest].tolist()


def test_the_split_is_stratified():
    digits = load("digits")
    whole = Counter(load_digits().target.tolist())
    test = Counter(digits.test.labels.tolist())
    assert all(abs(test[label] - 360 * count / 1797) < 1 for label, count in whole.items())


def test_the_split_is_always_the_same():
    """Whatever the state of the global generators."""
    runs = []
    for seed in (0, 1):
        np.random.seed(seed)
        torch.manual_seed(seed)
        runs.append(load("digits"))
    for a, b in ((runs[0].train, runs[1].train), (runs[0].test, runs[1].test)):
        assert torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)
