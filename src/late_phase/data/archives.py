"""Extracts archives: whole or not at all, and only to the requested place."""

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
"""The errors that the readers of archives raise on damaged archives."""


def fetch_extracted(file: Download, root: Path, name: str, whole: Callable[[Path], bool] = Path.exists) -> Path:
    """Returns the path ``root/name``, a folder or file at the top of the archive ``file``.

    What is already there is used as it is. Otherwise it is extracted from the archive in ``root``, which is downloaded if it is
    absent. A downloaded archive is deleted after the extraction. An archive that the user put there stays.

    Args:
        whole: tells whether a path can be used as it is; if not, it is replaced.

    Raises:
        UserError: the archive is absent and can't be downloaded, its content is not acceptable, or ``root`` can't be written.
    """
    to = root / name
    if whole(to):
        return to
    make_folder("dataset.root", root)
    if not os.access(root, os.W_OK):
        raise UserError(f"dataset.root={root} lacks {name} and can't be written: choose another folder.")
    archive = root / file.name
    with FileLock(root / f".{name}.lock"):
        if not whole(to):  # another process may have been faster
            placed = archive.exists()
            extract(fetch(file, root), to)
            if not placed:
                discard(archive)
    return to


def extract(archive: Path, to: Path) -> None:
    """Extracts the folder or file named like ``to`` from the top of ``archive``, and replaces ``to`` with it.

    The archive is a tar file, compressed or not, or a zip file. It may hold only folders and plain files that lie below its top:
    absolute paths, ``..``, links and devices are refused. Extracted files get the owner and permissions of any new file.

    Raises:
        UserError: the archive is damaged, lacks that name, or holds something that is refused. Then nothing is extracted.
    """
    scratch = to.with_name(f".{to.name}.extracting")  # a fixed name, so that the leftovers of a killed process are removed
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
                    os.fsync(file.fileno())  # the data reach the disk before the name does
        extracted = scratch / to.name
        if not extracted.exists():
            raise ValueError(f"it has no {to.name}")
        _remove(to)
        extracted.replace(to)
    except (*DAMAGED, ValueError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{archive} can't be extracted ({first_line(error)}): replace it with the original.") from error
    finally:
        _remove(scratch)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _safe(name: str) -> tuple[str, ...]:
    """Returns the parts of a member's path.

    Raises:
        ValueError: on some system, the path would leave the folder that it is joined to.
    """
    path = PureWindowsPath(name)  # it knows the separators of all systems
    if path.drive or path.root or ".." in path.parts:
        raise ValueError(f"{name} would lie outside of the folder")
    return path.parts


def _tar_members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """Yields the name of each member and a function that opens its content, or None for a folder."""
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
