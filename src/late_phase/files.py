"""Files that are whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from late_phase.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` when the block ends well and vanishes when it doesn't.

    The data is on disk before the name is: also after a power cut ``path`` is the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")  # always the same: what a killed process left is written over
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_folder(key: str, folder: Path) -> None:
    """Makes the folder that the config names by ``key``, if it isn't there.

    Raises:
        UserError: it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}={folder} can't be made a folder ({error.strerror}): choose another one.") from error


def write_text(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What :func:`write_json` wrote; None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: str | None = None) -> None:
    """A safetensors file; with at most one metadata entry, as several have no fixed order, and equal runs make equal bytes."""
    contiguous, written = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        shared = tensor.untyped_storage().data_ptr() in written  # a tied weight is written under each of its names
        contiguous[name] = tensor.clone() if shared else tensor
        written.add(tensor.untyped_storage().data_ptr())
    with atomic(path) as partial:
        partial.write_bytes(save(contiguous, None if metadata is None else {"late_phase": metadata}))
