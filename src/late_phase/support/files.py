"""Reads and writes files. A file is whole or absent."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from late_phase.support.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to. It replaces ``path`` if the block succeeds, and is removed if the block fails.

    The data is on disk before the name changes. Even after a power cut, ``path`` is the old file or the new one.
    """
    partial = _partial(path)
    _begin(path)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if str(error.filename) != str(partial):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # users don't know the partial file
    finally:
        with suppress(OSError):  # usually the file is gone
            partial.unlink()


def check_file(key: str, value: str, path: Path) -> None:
    """Refuses a path that can't be written, before the work that makes the file's content. Makes the folder if it is missing.

    Args:
        key, value: the entry of the config that leads to ``path``.

    Raises:
        UserError: no file can be written there.
    """
    absent = [folder for folder in path.parents if not folder.exists()]
    try:
        _begin(path)
        _partial(path).touch()
        _partial(path).unlink()
    except OSError as error:
        for folder in absent:
            with suppress(OSError):  # it wasn't made
                folder.rmdir()
        raise UserError(
            f"{key}={value} can't be used, because {path} can't be written ({error.strerror}): choose another place."
        ) from error


def _begin(path: Path) -> None:
    """Makes the folder of a file. Errors come now, before there is content to write."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)


def _partial(path: Path) -> Path:
    """Returns the path for the content until it is whole. It is always the same: the rest of a killed process is overwritten."""
    return path.parent / f".{path.name}.partial"


def make_folder(key: str, folder: Path) -> None:
    """Makes a folder if it is missing.

    Args:
        key: the key of the config that names the folder.

    Raises:
        UserError: the folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}={folder} can't be made ({error.strerror}): choose another folder.") from error


def write_text(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads what :func:`write_json` has written; None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: str | None = None) -> None:
    """Writes a safetensors file.

    It has at most one metadata entry. Several entries have no fixed order, and equal runs must write equal bytes.
    """
    contiguous, written = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        shared = tensor.untyped_storage().data_ptr() in written  # tied weights are written under each of their names
        contiguous[name] = tensor.clone() if shared else tensor
        written.add(tensor.untyped_storage().data_ptr())
    with atomic(path) as partial:
        partial.write_bytes(save(contiguous, None if metadata is None else {"late_phase": metadata}))
