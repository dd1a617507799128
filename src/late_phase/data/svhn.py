"""SVHN: photographed house numbers (Netzer et al., 2011). Only the test images, as inputs that a model was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from late_phase.data.download import Download, fetch
from late_phase.data.images import Dataset, Images

FILE = Download(
    "test_32x32.mat", ("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",), 64_275_384, "md5:eb5a983be6a315427106f1b164d9cef3"
)


def load(root: str) -> Dataset:
    """Loads 26,032 test images of 32 x 32 pixels in three channels, from the folder ``root`` or the network.

    Raises:
        UserError: the file is absent from ``root`` and can't be downloaded.
    """
    from scipy.io import loadmat

    content = loadmat(fetch(FILE, Path(root)))
    pixels = torch.from_numpy(np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)))
    labels = torch.from_numpy(content["y"].astype(np.int64).flatten() % 10)  # the digit 0 has the label 10
    return Dataset("svhn", tuple("0123456789"), None, Images(pixels, labels))
