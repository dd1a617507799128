"""Pictures in files, and what is read of folders of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from late_phase.data import load
from late_phase.data.images import Dataset
from late_phase.support.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image = PIXELS, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def images(folder: Path, *names: str, size: int = 32) -> None:
    """Writes noise to each file."""
    for name in names:
        save(folder / name, Image.effect_noise((size, size), 50))


def refused(call: Callable[[], object], *fragments: str) -> str:
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert message.isprintable() and message.endswith("."), message
    message.encode()
    for fragment in fragments:
        assert fragment in message, message
    return message


def read(root: Path, **options) -> Dataset:
    return load("image_folder", root=str(root), cache=str(root.parent / "cache"), **{"image_size": None} | options)
