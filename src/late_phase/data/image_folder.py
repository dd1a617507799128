"""Any folder of images: ``train/<class>/*`` and ``test/<class>/*``, decoded once, in parallel, and cached."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from late_phase.data.images import Dataset, Images
from late_phase.errors import UserError, first_line
from late_phase.files import make_folder, write_tensors


def load(root: str, image_size: int | None, cache: str) -> Dataset:
    """Images in three channels, of a common size.

    Args:
        root: folder with the subfolders ``train`` and ``test``, each with a subfolder of images per class.
        image_size: height and width in pixels; larger and smaller images are scaled to it along the shorter side, then cropped to
            the centre. Without it images are taken as they are and must be of one size.
        cache: folder for the decoded images; they are decoded again when a file was added, removed or changed.

    Raises:
        UserError: a folder is absent or has no image, the splits differ in classes, or an image is unreadable or of another size.
    """
    folder = Path(root)
    files = {split: _list(folder / split) for split in ("train", "test")}
    classes = tuple(sorted(files["train"]))
    if classes != tuple(sorted(files["test"])):
        other = sorted(set(files["train"]) ^ set(files["test"]))
        raise UserError(
            f"dataset.root={root} has different classes in train and test ({', '.join(other[:5])}): give both the same."
        )
    splits = {}
    for split, by_class in files.items():
        paths = [path for name in classes for path in by_class[name]]
        labels = torch.tensor([i for i, name in enumerate(classes) for _ in by_class[name]])
        splits[split] = Images(_pixels(paths, folder / split, image_size, Path(cache)), labels)
    if splits["train"].pixels.shape[1:] != splits["test"].pixels.shape[1:]:
        raise UserError(f"dataset.root={root} has images of another size in train than in test: set dataset.image_size.")
    return Dataset(folder.resolve().name, classes, splits["train"], splits["test"])


def _list(folder: Path) -> dict[str, list[Path]]:
    """Class -> image files in a fixed order."""
    if not folder.is_dir():
        raise UserError(f"dataset.root: there is no folder {folder}; an image folder has train/<class>/* and test/<class>/*.")
    by_class = {}
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        by_class[subfolder.name] = image_files(subfolder)
        if not by_class[subfolder.name]:
            raise UserError(f"dataset.root: the class folder {subfolder} has no image: remove it or put some there.")
    if not by_class:
        raise UserError(f"dataset.root: {folder} has no class folders; an image folder has train/<class>/* and test/<class>/*.")
    return by_class


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and in those below it, sorted. Hidden ones and files of other kinds are passed over."""
    files = (Path(parent, name).relative_to(folder) for parent, _, names in os.walk(folder) for name in names)
    images = (path for path in files if path.suffix.lower() in IMG_EXTENSIONS)
    return sorted(folder / path for path in images if not any(part.startswith(".") for part in path.parts))


def _pixels(paths: list[Path], folder: Path, image_size: int | None, cache: Path) -> Tensor:
    """``[images, 3, height, width]`` uint8, from the cache if it was made from these very files."""
    fingerprint = hashlib.sha256(f"{image_size}\n".encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path} is not a readable image ({error.strerror}): replace or remove it.") from error
        fingerprint.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    cached = cache / f"image_folder-{key}.safetensors"
    make_folder("dataset.cache", cache)
    with filelock.FileLock(cached.with_suffix(".lock")):
        try:
            with safe_open(cached, "pt") as file:
                if file.metadata() == {"late_phase": fingerprint.hexdigest()}:
                    return file.get_tensor("pixels")
        except (OSError, SafetensorError):
            pass  # absent, damaged or another's: made anew below
        pixels = decode(paths, image_size, f"decoding {folder.name} images")
        write_tensors(cached, {"pixels": pixels}, metadata=fingerprint.hexdigest())
    return pixels


def decode(paths: list[Path], image_size: int | None, title: str) -> Tensor:
    """``[images, 3, height, width]`` uint8, of one size.

    Raises:
        UserError: an image is unreadable, or of another size than the first one while there is no ``image_size``.
    """
    first = _read(paths[0], image_size)
    pixels = torch.empty((len(paths), *first.shape), dtype=torch.uint8)

    def decode(i: int) -> None:
        image = _read(paths[i], image_size)
        if image.shape != first.shape:
            sizes = " and ".join(f"{path} has {a.shape[2]} x {a.shape[1]}" for path, a in ((paths[0], first), (paths[i], image)))
            raise UserError(f"the images differ in size ({sizes} pixels): set dataset.image_size, for example to 32.")
        pixels[i] = image

    with ThreadPoolExecutor() as pool:
        jobs = pool.map(decode, range(len(paths)))
        try:
            for _ in tqdm(jobs, title, len(paths), unit=" images", disable=None, leave=False):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    return pixels


def _read(path: Path, image_size: int | None) -> Tensor:
    """``[3, height, width]`` uint8."""
    try:
        with Image.open(path) as file:
            image = file if file.mode != "F" and not file.mode.startswith("I") else _to_8_bits(file)
            if "transparency" in image.info:
                image = image.convert("RGBA")  # else Pillow warns that it is lost
            image = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all that Pillow raises on bad files
        raise UserError(f"{path} is not a readable image ({first_line(error)}): replace or remove it.") from error
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """An image of 16 bits a pixel, which Pillow's own conversion would clip rather than scale."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels, from {values.min()} to {values.max()}, are not of 8 or 16 bits")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
