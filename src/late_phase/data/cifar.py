"""CIFAR-10 and CIFAR-100, as torchvision downloads, verifies and reads them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from late_phase.data.images import Dataset, Images
from late_phase.errors import UserError, first_line
from late_phase.files import make_folder

SOURCES: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def load(name: str, root: str) -> Dataset:
    """50,000 training and 10,000 test images of 32 x 32 pixels in three channels, from the folder ``root``, or the network.

    Raises:
        UserError: the files are neither in ``root`` nor to be had.
    """
    source, folder = SOURCES[name], Path(root)
    make_folder("dataset.root", folder)
    if (splits := _read(source, folder)) is None:
        try:
            with FileLock(folder / f".{name}.lock"):
                if (splits := _read(source, folder)) is None:  # if no other process was faster
                    _fetch(name, source, folder)
                    splits = _read(source, folder)
        except PermissionError as error:
            raise UserError(f"dataset.root={root} lacks {name} and can't be written: choose another folder.") from error
    train, test = (Images(torch.from_numpy(s.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(s.targets)) for s in splits)
    return Dataset(name, tuple(splits[0].classes), train, test)


def _read(source: type[CIFAR10], folder: Path) -> list[CIFAR10] | None:
    """Training and test images, or None if they are absent or not what they should be."""
    try:
        return [source(str(folder), train=train) for train in (True, False)]
    except RuntimeError:  # torchvision's word for both
        return None


def _fetch(name: str, source: type[CIFAR10], folder: Path) -> None:
    """Extracts the archive that lies in ``folder``, or a downloaded one, elsewhere first: what is in ``folder`` is whole."""
    archive = folder / source.filename
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as scratch:
        if check_integrity(str(archive), source.tgz_md5):
            (Path(scratch) / source.filename).symlink_to(archive.resolve())
        try:
            source(scratch, download=True)
        except (OSError, RuntimeError) as error:
            damaged = f", where {archive.name} is damaged," if archive.exists() else ""
            raise UserError(
                f"dataset={name} is not in {folder.resolve()}{damaged} and could not be downloaded ({first_line(error)}): "
                f"put {source.filename} (md5 {source.tgz_md5}) there, from {source.url} or a copy of it."
            ) from error
        extracted = folder / source.base_folder
        shutil.rmtree(extracted, ignore_errors=True)
        (Path(scratch) / source.base_folder).rename(extracted)
