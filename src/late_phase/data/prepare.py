"""Datasets made ready for use, by name: downloaded, verified, extracted, and read once."""

from __future__ import annotations

from late_phase.data import CORRUPTED, DATASETS, TEXTS, root_options

LOADERS = {**DATASETS, **CORRUPTED, **TEXTS}
PREPARED = tuple(name for name in LOADERS if name not in ("image_folder", "text_file"))
"""All but those that have no name of their own."""


def prepare(name: str, root: str) -> str:
    """Loads the dataset ``name``, from the folder ``root`` if it isn't embedded, and says in a line what it is.

    Raises:
        UserError: its files are neither there nor to be had.
    """
    where = root_options(name, root)
    loaded = LOADERS[name](**where)
    if name in CORRUPTED:
        images = len(loaded.images(loaded.corruptions[0], loaded.severities[0]))
        what = f"{len(loaded.corruptions)} corruptions, {len(loaded.severities)} severities, {images:,} images of each"
    elif name in TEXTS:
        what = ", ".join(f"{len(getattr(loaded, part)):,} bytes {part}" for part in ("train", "validation", "test"))
    else:
        training = "" if loaded.train is None else f"{len(loaded.train):,} training images, "
        classes = f" in {len(loaded.classes)} classes" if loaded.classes else ", unlabelled"
        what = f"{training}{len(loaded.test):,} test images{classes}"
    place = f"whole, in {where['root']}" if where else "embedded"
    return f"{name}: {what}; {place}"
