"""Files from the network, or where a user put them. A file counts as present only with the right size and checksum."""

from __future__ import annotations

import hashlib
import http
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from late_phase.support.errors import UserError, first_line
from late_phase.support.files import make_folder, write_text

STALL_SECONDS = 30.0
"""Seconds that a server may stay silent."""
ATTEMPTS = 3
"""Attempts in a row that bring no new bytes before a server is given up."""
PAUSE_SECONDS = 1.0
"""Seconds before a server is asked again."""
CHUNK = 1 << 20
# Some servers refuse clients that don't look like a browser.
HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; late-phase)", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Download:
    """A file whose name and checksum are known beforehand.

    Attributes:
        urls: where to download it, the first choice first.
        size: in bytes; None if nobody states it.
        checksum: ``md5:`` or ``sha256:`` and hexadecimal digits.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None
    checksum: str

    def __str__(self) -> str:
        size = "" if self.size is None else f"{self.size:,} bytes, "
        return f"{self.name} ({size}{self.checksum.replace(':', ' ')})"


def fetch(file: Download, folder: Path) -> Path:
    """Returns the path of ``file`` in ``folder``; downloads the file if it is absent or wrong.

    An interrupted download continues where it ended, in this or another process. Several processes download a file only once.
    The size and checksum are verified before the file gets its name. They are verified again only after the file has changed.

    Raises:
        UserError: the file is absent and can't be downloaded, or the folder can't be written.
    """
    path = folder / file.name
    if verified(file, path):
        return path
    make_folder("dataset.root", folder)
    if not os.access(folder, os.W_OK):
        raise UserError(f"dataset.root={folder} lacks {file} and can't be written: choose another folder.")
    with FileLock(folder / f".{file.name}.lock"):
        if not verified(file, path):  # another process may have been faster
            try:
                _download(file, path)
            except OSError as error:
                raise UserError(f"dataset.root={folder} can't store {file} ({error.strerror}): choose another folder.") from error
            _record(file, path)
    return path


def verified(file: Download, path: Path) -> bool:
    """Tells whether the file at ``path`` exists and is right.

    A positive answer is recorded, and holds until the file changes.
    """
    if not path.exists():
        return False
    if _stamp(file, path) != _read_stamp(path):
        if not _matches(file, path):
            return False
        _record(file, path)
    return True


def discard(path: Path) -> None:
    """Deletes a file that :func:`fetch` returned, and the record of its verification."""
    path.unlink()
    _stamp_path(path).unlink(missing_ok=True)


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _record(file: Download, path: Path) -> None:
    with suppress(OSError):  # in a read-only folder the file is verified each time
        write_text(_stamp_path(path), _stamp(file, path))


def _stamp(file: Download, path: Path) -> str:
    """Returns the record of a verified file. Other content would have another size or time."""
    status = path.stat()
    return f"{file.checksum} {status.st_size} {status.st_mtime_ns}\n"


def _read_stamp(path: Path) -> str | None:
    try:
        return _stamp_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _matches(file: Download, path: Path) -> bool:
    """Tells whether the file at ``path`` has the right size and checksum."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return False
    algorithm, _, digest = file.checksum.partition(":")
    found = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as content, _bar(f"verifying {file.name}", size) as bar:
        while chunk := content.read(CHUNK):
            found.update(chunk)
            bar.update(len(chunk))
    return found.hexdigest() == digest


def _bar(title: str, total: int | None, done: int = 0) -> tqdm:
    return tqdm(desc=title, total=total, initial=done, unit="B", unit_scale=True, disable=None, leave=False)


class _Failed(Exception):
    """A server didn't send the requested bytes; the message says why."""


class _Useless(_Failed):
    """A failure that another request to the same server would not cure."""


def _download(file: Download, path: Path) -> None:
    """Puts the verified file at ``path``.

    It is first downloaded to ``.<name>.partial``, which stays after a failure if the download can be continued.
    """
    partial = path.with_name(f".{file.name}.partial")
    reasons = []
    for url in file.urls:
        try:
            _download_from(url, file, partial)
        except _Failed as error:
            reasons.append(f"{urllib.parse.urlsplit(url).netloc}: {first_line(error)}")
            continue
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
        return
    there = "holds a damaged" if path.exists() else "lacks"
    raise UserError(
        f"dataset.root={path.parent.resolve()} {there} {file}, which could not be downloaded ({'; '.join(reasons)}): put it there "
        f"yourself, from {' or '.join(file.urls)} or from another copy."
    )


def _download_from(url: str, file: Download, partial: Path) -> None:
    """Completes ``partial`` from one server, and keeps trying as long as it makes progress.

    Raises:
        _Failed: the file could not be completed, or the complete file was wrong and is deleted.
    """
    longest, idle = _size(partial), 0
    while True:
        continued = _size(partial) > 0
        try:
            _receive(url, file, partial)
            if _matches(file, partial):
                return
            partial.unlink()
            # The bytes that a continued download started from may have been wrong.
            raise (_Failed if continued else _Useless)("the content is not what was expected")
        except _Useless:
            raise
        except _Failed:
            idle = 0 if _size(partial) > longest else idle + 1
            if idle == ATTEMPTS:
                raise
        longest = max(longest, _size(partial))
        time.sleep(PAUSE_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, file: Download, partial: Path) -> None:
    """Appends the missing bytes to ``partial``, or starts over if the server can't continue.

    Raises:
        _Failed: the transfer failed, but another attempt may succeed.
        _Useless: another attempt would not help: the server can't be reached or doesn't have the file.
    """
    have = _size(partial)
    if have and have == file.size:
        return  # an earlier process was stopped right before the verification
    headers = HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return  # already complete
            partial.unlink(missing_ok=True)
            raise _Failed("it has fewer bytes than were received") from error
        kind = _Failed if error.code >= 500 or error.code == http.HTTPStatus.TOO_MANY_REQUESTS else _Useless
        raise kind(str(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        kind = _Failed if have else _Useless
        raise kind(_reason(error)) from error
    with response:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            first = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if first is None or int(first[1]) != have:
                partial.unlink(missing_ok=True)
                raise _Failed("it continued at the wrong byte")
        else:
            have = 0
        length = response.headers.get("Content-Length")
        total = file.size if length is None else have + int(length)
        if file.size not in (None, total):
            raise _Useless(f"it has {total:,} bytes instead of {file.size:,}")
        with partial.open("ab" if have else "wb") as to, _bar(file.name, total, have) as bar:
            for chunk in _chunks(response):
                have += len(chunk)
                if total is not None and have > total:
                    to.truncate(0)
                    raise _Useless("it sends more bytes than it should")
                to.write(chunk)
                bar.update(len(chunk))
    if total is not None and have < total:
        raise _Failed(f"the connection ended after {have:,} of {total:,} bytes")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yields the content as it arrives. Errors of the connection, but not of the disk, become :class:`_Failed`."""
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(_reason(error)) from error
        if not chunk:
            return
        yield chunk


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"no answer for {STALL_SECONDS:g} seconds"
    return getattr(error, "strerror", None) or first_line(error)
