"""Image files of all common kinds: lists those in a folder, and reads the pixels of each."""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS

from late_phase.support.errors import UserError, first_line, printable

EXTENSIONS = (*IMG_EXTENSIONS, ".apng", ".avif", ".gif", ".jfif", ".jp2", ".jpe", ".mpo", ".pbm", ".pnm")
"""Lower-case extensions of the files that are taken for images: torchvision's, and other common ones that Pillow reads."""

SYSTEM_FILES = (".ds_store", ".directory", ".gitignore", ".gitkeep", "desktop.ini", "ehthumbs.db", "thumbs.db")
"""Lower-case names of files that systems leave behind. They are ignored, as are names that begin with ``._``."""

DECODING = 2
"""Changes whenever :func:`read_image` decodes a file to other pixels. Results from the old pixels are then made again."""

SHOWN_KINDS = 6


# Files of a folder.


def list_splits(root: str, splits: tuple[str, str]) -> dict[str, dict[str, list[Path]]]:
    """Lists the image files of each split and class in ``root/<split>/<class>`` and the folders below it.

    Returns split -> class -> files, with classes and files sorted. Links to folders are followed, except links to a folder that
    contains the link. Class names are in the composed form of Unicode (NFC), whatever form the file system has. A line on stderr
    says how many files of each kind are passed over: hidden files, files beside the class folders, and files without the
    extension of an image.

    Raises:
        UserError: a split has no folder or no class folders; a class folder has no image; two class names differ only in their
            form in Unicode; a link leads nowhere.
    """
    found, passed_over = {}, {}
    for split in splits:
        folder = Path(root) / split
        if not folder.is_dir():
            raise UserError(f"dataset.root={root} has no folder {split}: give a folder with {_layout(splits)}.")
        found[split], passed_over[split] = _list_classes(folder)
        if not found[split]:
            raise UserError(f"dataset.root={root} has no class folders in {split}: give a folder with {_layout(splits)}.")
    if any(passed_over.values()):
        counts = "; ".join(f"in {split}: {_counts(kinds)}" for split, kinds in passed_over.items() if kinds)
        print(printable(f"dataset.root={root}: files passed over {counts}."), file=sys.stderr)
    return found


def _layout(splits: tuple[str, str]) -> str:
    return " and ".join(f"{split}/<class>/*" for split in splits)


def _counts(kinds: Counter[str]) -> str:
    rest = sum(count for _, count in kinds.most_common()[SHOWN_KINDS:])
    shown = [f"{count:,} {kind}" for kind, count in kinds.most_common(SHOWN_KINDS)]
    return ", ".join(shown + ([f"{rest:,} of other kinds"] if rest else []))


def _list_classes(folder: Path) -> tuple[dict[str, list[Path]], Counter[str]]:
    """Returns class -> image files, and how many files of each kind are passed over."""
    class_of: dict[str, str] = {}
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        class_of[name] = unicodedata.normalize("NFC", name)
        if same := [other for other in class_of if other != name and class_of[other] == class_of[name]]:
            raise UserError(
                f"dataset.root: {folder} has class folders whose names differ only in their form in Unicode, "
                f"{same[0]!a} and {name!a}: put their images into one folder."
            )
    by_class: dict[str, list[Path]] = {name: [] for name in sorted(class_of.values())}
    passed_over: Counter[str] = Counter()
    for path in _files(folder):
        kind = _other_kind(path)
        if kind is None and len(path.parts) > 1:
            by_class[class_of[path.parts[0]]].append(folder / path)
            continue
        if kind != "hidden" and not (folder / path).exists():
            raise UserError(f"dataset.root: the link {folder / path} leads nowhere: repair or remove it.")
        passed_over[kind or "beside the class folders"] += 1
    for name, files in by_class.items():
        if not files:
            kinds = ", ".join(EXTENSIONS)
            raise UserError(f"dataset.root: the class folder {folder / name} has no image ({kinds}): remove it or add one.")
    return {name: sorted(files) for name, files in by_class.items()}, passed_over


def list_images(folder: Path) -> list[Path]:
    """Returns the image files in a folder and the folders below it, sorted, as :func:`list_splits` finds them."""
    return sorted(folder / path for path in _files(folder) if _other_kind(path) is None)


def _files(folder: Path) -> Iterator[Path]:
    """Yields the paths, relative to a folder, of all files in it and below it, except what systems leave there."""

    def refuse(error: OSError) -> None:  # os.walk would skip a folder that can't be read
        raise UserError(f"{error.filename} can't be read ({error.strerror}): change its permissions or remove it.") from error

    for parent, subfolders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(parent)
        subfolders[:] = [name for name in subfolders if not _is_loop(here / name)]
        for name in names:
            if name.lower() not in SYSTEM_FILES and not name.startswith("._"):
                yield (here / name).relative_to(folder)


def _is_loop(folder: Path) -> bool:
    """Tells whether a folder is a link to a folder that contains it, so that following it would never end."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return any(target == parent.resolve() for parent in folder.absolute().parents)


def _other_kind(path: Path) -> str | None:
    """Returns the kind of a file, from its path in the folder, or None if it is taken for an image."""
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    extension = path.suffix.lower()
    return None if extension in EXTENSIONS else extension or "without extension"


# Pixels of a file.


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silences Pillow's warnings about damaged EXIF data or lost transparency.

    It does so for the whole process, so one thread must enter it on behalf of all.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def read_image(path: Path) -> Image.Image:
    """Reads the picture in a file: upright, in three channels of 8 bits.

    All readers of image files use it, inside :func:`without_warnings`.

    * The picture is turned and mirrored as its EXIF data say. Damaged EXIF data are ignored.
    * From an animation, or a file with several pages, the first image is read.
    * 16 bits are scaled to 8. Transparent pixels get the colour that they would have if they were not transparent.
    * A colour profile in the file (ICC) is not applied; torchvision doesn't apply it either.

    Raises:
        UserError: the file can't be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            raise ValueError("it is not a file")
        with Image.open(path) as file:
            file.load()
            deep = file.mode == "F" or file.mode.startswith("I")
            image = (_to_8_bits(file) if deep else file).convert("RGB")
            orientation = _orientation(file)
    # Pillow raises any of these on bad files.
    except (MemoryError, OSError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({first_line(error)}): replace or remove it.") from error
    image.info.clear()  # Pillow would rewrite the rest of the EXIF data, which fails if they are damaged
    image.getexif()[ExifTags.Base.Orientation] = orientation
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _orientation(image: Image.Image) -> int:
    """Returns the orientation in the EXIF data of a loaded image, or 1 if they are damaged.

    Damaged EXIF data can raise anything, while the pixels are good.
    """
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scales an image of 16 bits a pixel to 8 bits. Pillow's own conversion would clip it."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels, from {values.min()} to {values.max()}, don't have 8 or 16 bits")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
