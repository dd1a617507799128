"""Handwritten digits: the 1,797 images that scikit-learn ships, so that everything runs without a network."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from late_phase.data.images import Dataset, Images


@functools.cache  # the runs of a sweep share them
def load() -> Dataset:
    """Loads 1,437 training and 360 test images in one channel, stratified by class; the split is always the same.

    The originals have 8 x 8 pixels in 17 grey levels. They are enlarged bilinearly to 32 x 32 pixels, the size that the
    architectures take.
    """
    # scikit-learn is slow to import, and runs on other data don't need it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16).float()[:, None]
    pixels = F.interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False)
    images = Images((pixels * 255).round().to(torch.uint8), torch.from_numpy(digits.target).long())
    train, test = train_test_split(range(len(images)), test_size=360, stratify=digits.target, random_state=0)
    classes = tuple(str(name) for name in digits.target_names)
    return Dataset("digits", classes, images.take(torch.tensor(train)), images.take(torch.tensor(test)))
