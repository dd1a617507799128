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
from tqdm import tqdm

from late_phase.data.image_files import DECODING, list_splits, read_image, without_warnings
from late_phase.data.images import Dataset, Images
from late_phase.support.errors import UserError, printable
from late_phase.support.files import make_folder, write_tensors
from late_phase.support.memory import check_memory


def load(root: str, image_size: int | None, cache: str) -> Dataset:
    """Loads images in three channels and one common size.

    Args:
        root: folder with the subfolders ``train`` and ``test``, each with a subfolder of images per class; see
            :func:`~late_phase.data.image_files.list_splits`.
        image_size: height and width in pixels. Images are scaled to it along the shorter side, then cropped to the centre.
            Without it, images stay as they are and must all have one size.
        cache: folder for the decoded images. They are decoded again when a file was added, removed or changed.

    Raises:
        UserError: a folder is absent or has no image, the splits differ in classes, an image is unreadable or has another size,
            or the images don't fit into memory.
    """
    folder = Path(root)
    files = list_splits(root, ("train", "test"))
    classes = tuple(files["train"])
    if files["train"].keys() != files["test"].keys():
        other = sorted(files["train"].keys() ^ files["test"].keys())
        raise UserError(
            f"dataset.root={root} has different classes in train and test ({', '.join(other[:5])}): give both the same classes."
        )
    splits = {}
    for split, by_class in files.items():
        paths = [path for name in classes for path in by_class[name]]
        labels = torch.tensor([i for i, name in enumerate(classes) for _ in by_class[name]])
        splits[split] = Images(_pixels(paths, folder / split, image_size, Path(cache)), labels)
    if splits["train"].pixels.shape[1:] != splits["test"].pixels.shape[1:]:
        raise UserError(f"dataset.root={root} has images of different sizes in train and test: set dataset.image_size.")
    return Dataset(printable(folder.resolve().name), classes, splits["train"], splits["test"])


def _pixels(paths: list[Path], folder: Path, image_size: int | None, cache: Path) -> Tensor:
    """Returns ``[images, 3, height, width]`` uint8, from the cache if it was made from exactly these files."""
    fingerprint = hashlib.sha256(f"{DECODING} {image_size}\n".encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path} is not a readable image ({error.strerror}): replace or remove it.") from error
        fingerprint.update(os.fsencode(path.relative_to(folder)) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    cached = cache / f"image_folder-{key}.safetensors"
    make_folder("dataset.cache", cache)
    with filelock.FileLock(cached.with_suffix(".lock")):
        try:
            with safe_open(cached, "pt") as file:
                if file.metadata() == {"late_phase": fingerprint.hexdigest()}:
                    return file.get_tensor("pixels")
        except (OSError, SafetensorError):
            pass  # absent, damaged or not from here: decoded again below
        pixels = decode(paths, image_size, f"decoding {folder.name} images")
        write_tensors(cached, {"pixels": pixels}, metadata=fingerprint.hexdigest())
    return pixels


def decode(paths: list[Path], image_size: int | None, title: str) -> Tensor:
    """Decodes images of one size to ``[images, 3, height, width]`` uint8.

    Raises:
        UserError: an image is unreadable, the images don't fit into memory, or without an ``image_size`` an image has another
            size than the first one.
    """
    if image_size is not None:
        what = f"dataset.image_size={image_size} with {len(paths):,} images"
        check_memory(what, 3 * image_size**2 * len(paths), "choose a smaller one, or fewer images.")
    with without_warnings(), ThreadPoolExecutor() as pool:
        first = _read(paths[0], image_size)
        height, width = first.shape[1:]
        what = f"a set of {len(paths):,} images of {width} x {height} pixels, such as {paths[0]},"
        check_memory(what, first.nbytes * len(paths), "set dataset.image_size, for example to 32.")
        pixels = torch.empty((len(paths), *first.shape), dtype=torch.uint8)

        def decode(i: int) -> None:
            image = _read(paths[i], image_size)
            if image.shape != first.shape:
                seen = ((paths[0], first), (paths[i], image))
                sizes = " and ".join(f"{path} has {a.shape[2]} x {a.shape[1]}" for path, a in seen)
                raise UserError(f"the images differ in size ({sizes} pixels): set dataset.image_size, for example to 32.")
            pixels[i] = image

        jobs = pool.map(decode, range(len(paths)))
        try:
            for _ in tqdm(jobs, title, len(paths), unit=" images", disable=None, leave=False):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    return pixels


def _read(path: Path, image_size: int | None) -> Tensor:
    """Reads an image as ``[3, height, width]`` uint8."""
    image = read_image(path)
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
