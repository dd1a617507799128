"""Out-of-distribution images, of no class that a model knows. Those that need no network are for models of the digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from late_phase.data import digits
from late_phase.data.archives import fetch_extracted
from late_phase.data.download import Download
from late_phase.data.image_files import list_images
from late_phase.data.image_folder import decode
from late_phase.data.images import Dataset, Images
from late_phase.support.errors import UserError
from late_phase.support.seeding import generator

# Nobody states the sizes of these files.
ARCHIVES = {
    "lsun_resize": Download(
        "LSUN_resize.tar.gz",
        (
            "https://www.dropbox.com/s/moqh2wh8696c3yl/LSUN_resize.tar.gz?dl=1",
            "https://www.dropbox.com/s/raw/moqh2wh8696c3yl/LSUN_resize.tar.gz",
        ),
        None,
        "md5:278b7b31c8cb7e804a1465a8ce03a2dc",
    ),
    "tiny_imagenet_resize": Download(
        "Imagenet_resize.tar.gz",
        (
            "https://www.dropbox.com/s/kp3my3412u5k9rl/Imagenet_resize.tar.gz?dl=1",
            "https://www.dropbox.com/s/raw/kp3my3412u5k9rl/Imagenet_resize.tar.gz",
        ),
        None,
        "md5:0f9ff11d45babf2eff5fe12281d1ac31",
    ),
}
COUNT = 10_000
"""Images in each of these archives."""
SIZE = 32
NOISE_IMAGES = 1000


def load_resized(name: str, root: str) -> Dataset:
    """Loads 10,000 unlabelled images of 32 x 32 pixels in three channels: LSUN's or Tiny ImageNet's, by Liang et al. (2018).

    Args:
        root: folder with the archive or the extracted folder, which has the archive's name without its endings.

    Raises:
        UserError: ``root`` has neither and the archive can't be downloaded, or the extracted folder lacks images.
    """
    archive = ARCHIVES[name]
    folder = fetch_extracted(archive, Path(root), archive.name.removesuffix(".tar.gz"))
    files = list_images(folder)
    if len(files) != COUNT:
        raise UserError(f"{folder} has {len(files):,} images instead of the {COUNT:,} of {archive}: remove it to get it again.")
    return _unlabelled(name, decode(files, None, f"decoding {name}"))


def photo_patches() -> Dataset:
    """Cuts scikit-learn's two photographs along a grid, row by row: 520 patches of 32 x 32 pixels in one channel."""
    from sklearn.datasets import load_sample_images

    photos = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    rows, columns = (length // SIZE for length in photos.shape[2:])
    grid = photos[:, :, : rows * SIZE, : columns * SIZE].unfold(2, SIZE, SIZE).unfold(3, SIZE, SIZE)
    patches = Images.unlabelled(grid.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, SIZE, SIZE))
    return _unlabelled("photo_patches", patches.fit(1, (SIZE, SIZE)).pixels)


def digits_rotated() -> Dataset:
    """Turns the digits' test images by 90, 180 and 270 degrees: 1,080 images, a few of which are still digits."""
    pixels = digits.load().test.pixels
    return _unlabelled("digits_rotated", torch.cat([pixels.rot90(quarters, (2, 3)) for quarters in (1, 2, 3)]).contiguous())


def noise() -> Dataset:
    """Makes 1,000 images of 32 x 32 pixels in one channel, each pixel uniform from 0 to 255; they are always the same."""
    random = generator(0, "noise images")
    return _unlabelled("noise", torch.randint(256, (NOISE_IMAGES, 1, SIZE, SIZE), generator=random, dtype=torch.uint8))


def _unlabelled(name: str, pixels: torch.Tensor) -> Dataset:
    return Dataset(name, (), None, Images.unlabelled(pixels))
