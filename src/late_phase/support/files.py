"""Files that are whole or absent."""

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
    """A path to write to, which takes the place of ``path`` when the block ends well and vanishes when it doesn't.

    The data is on disk before the name is: also after a power cut ``path`` is the old file or the new one.
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
        raise OSError(error.errno, error.strerror, str(path)) from error  # nobody has heard of the partial file
    finally:
        with suppress(OSError):  # not there: the usual case
            partial.unlink()


def check_file(key: str, value: str, path: Path) -> None:
    """Refuses the place of a file before the work that makes its content; makes its folder if that isn't there.

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
            with suppress(OSError):  # not made
                folder.rmdir()
        raise UserError(
            f"{key}={value} can't be used, as {path} can't be written ({error.strerror}): choose another place."
        ) from error


def _begin(path: Path) -> None:
    """The folder of a file that is to be written. An error tells what can be told before there is content."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)


def _partial(path: Path) -> Path:
    """Where the content is until it is whole. Always the same: what a killed process left is written over."""
    return path.parent / f".{path.name}.partial"


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
