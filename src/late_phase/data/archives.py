"""Archives, extracted whole or not at all, and never to another place than asked for."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO

from filelock import FileLock
from tqdm import tqdm

from late_phase.data.download import Download, discard, fetch
from late_phase.support.errors import UserError, first_line
from late_phase.support.files import make_folder

DAMAGED = (EOFError, RuntimeError, zlib.error, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile)
"""All that the readers of archives raise on bad ones."""


def fetch_extracted(file: Download, root: Path, name: str, whole: Callable[[Path], bool] = Path.exists) -> Path:
    """The path ``root/name``, which is a folder or file at the top of the archive ``file``.

    If it is there, it is taken as it is; else it is extracted from the archive, which is in ``root`` or downloaded. A downloaded
    archive is deleted when it is extracted; one that was put there stays.

    Args:
        whole: tells whether what is at a path is to be taken; else it is replaced.

    Raises:
        UserError: the archive is neither there nor to be had, or its content is not acceptable.
    """
    to = root / name
    if whole(to):
        return to
    make_folder("dataset.root", root)
    if not os.access(root, os.W_OK):
        raise UserError(f"dataset.root={root} lacks {name} and can't be written: choose another folder.")
    archive = root / file.name
    with FileLock(root / f".{name}.lock"):
        if not whole(to):  # if no other process was faster
            placed = archive.exists()
            extract(fetch(file, root), to)
            if not placed:
                discard(archive)
    return to


def extract(archive: Path, to: Path) -> None:
    """Extracts the folder or file at the top of ``archive`` that has the name of ``to``, to there, in place of what is there.

    Only folders and plain files are acceptable, below the archive's own top: no absolute paths, no ``..``, no links, no devices.
    Owners and permissions are those of any new file. The archive is a tar file, compressed or not, or a zip file.

    Raises:
        UserError: there is something else in the archive, nothing of that name, or it is damaged. Nothing of it is left then.
    """
    scratch = to.with_name(f".{to.name}.extracting")  # always the same: what a killed process left is removed
    _remove(scratch)
    scratch.mkdir(parents=True)
    try:
        members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        for name, opened in tqdm(members, f"extracting {archive.name}", unit=" files", disable=None, leave=False):
            target = scratch.joinpath(*_safe(name))
            if opened is None:
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened() as content, target.open("xb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())  # the data is on disk before the name is
        extracted = scratch / to.name
        if not extracted.exists():
            raise ValueError(f"it has no {to.name}")
        _remove(to)
        extracted.replace(to)
    except (*DAMAGED, ValueError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{archive} can't be extracted ({first_line(error)}): replace it by the original.") from error
    finally:
        _remove(scratch)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _safe(name: str) -> tuple[str, ...]:
    """The parts of a member's path, which must stay below the folder that it is joined to, on any system."""
    path = PureWindowsPath(name)  # which also has the separators of the others
    if path.drive or path.root or ".." in path.parts:
        raise ValueError(f"{name} would lie outside of the folder")
    return path.parts


def _tar_members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """The name of each member and what opens its content, None for a folder."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile() and not member.isdir():
                raise ValueError(f"{member.name} is a link or a device")
            yield member.name, partial(tar.extractfile, member) if member.isfile() else None


def _zip_members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    with zipfile.ZipFile(archive) as files:
        for member in files.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{member.filename} is a link or a device")
            yield member.filename, None if member.is_dir() else partial(files.open, member)
