"""Files from the network, or where a user put them: of the right size and checksum, or absent."""

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
"""So long a server may say nothing."""
ATTEMPTS = 3
"""So often in a row a server that has sent something may add nothing to it."""
PAUSE_SECONDS = 1.0
"""Before a server is asked again."""
CHUNK = 1 << 20
# Some servers turn away whoever doesn't look like a browser.
HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; late-phase)", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Download:
    """A file that is known beforehand.

    Attributes:
        urls: where it is to be had, the first choice first.
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
    """The path of ``file`` in ``folder``, downloaded if it isn't there or isn't right.

    A download that was cut off is taken up where it ended, by this or another process; several processes download it once. Size
    and checksum are verified before the file has its name. They are verified again only if the file changed since.

    Raises:
        UserError: it is neither there nor to be had, or the folder can't be written.
    """
    path = folder / file.name
    if verified(file, path):
        return path
    make_folder("dataset.root", folder)
    if not os.access(folder, os.W_OK):
        raise UserError(f"dataset.root={folder} lacks {file} and can't be written: choose another folder.")
    with FileLock(folder / f".{file.name}.lock"):
        if not verified(file, path):  # if no other process was faster
            try:
                _download(file, path)
            except OSError as error:
                raise UserError(f"dataset.root={folder} can't take {file} ({error.strerror}): choose another folder.") from error
            _record(file, path)
    return path


def verified(file: Download, path: Path) -> bool:
    """Whether the file at ``path`` is there and right; on record for as long as it doesn't change."""
    if not path.exists():
        return False
    if _stamp(file, path) != _read_stamp(path):
        if not _matches(file, path):
            return False
        _record(file, path)
    return True


def discard(path: Path) -> None:
    """Deletes a file that :func:`fetch` returned, and what is on record about it."""
    path.unlink()
    _stamp_path(path).unlink(missing_ok=True)


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _record(file: Download, path: Path) -> None:
    with suppress(OSError):  # in a folder that can't be written the file is verified each time
        write_text(_stamp_path(path), _stamp(file, path))


def _stamp(file: Download, path: Path) -> str:
    """What is on record about a verified file: another content would have another size or time."""
    status = path.stat()
    return f"{file.checksum} {status.st_size} {status.st_mtime_ns}\n"


def _read_stamp(path: Path) -> str | None:
    try:
        return _stamp_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _matches(file: Download, path: Path) -> bool:
    """Whether the file at ``path`` has the right size and checksum."""
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
    """A server didn't send what it was asked for; the message says why."""


class _Useless(_Failed):
    """Asking that server again would not help."""


def _download(file: Download, path: Path) -> None:
    """Puts the verified file at ``path``, by way of ``.<name>.partial``, which stays if it is to be continued."""
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
        f"dataset.root={path.parent.resolve()} {there} {file}, which could not be downloaded ({'; '.join(reasons)}): put it there, "
        f"from {' or '.join(file.urls)} or a copy of it."
    )


def _download_from(url: str, file: Download, partial: Path) -> None:
    """Completes ``partial`` from one server, with patience as long as it makes progress.

    Raises:
        _Failed: it could not be completed, or it is complete and wrong and was deleted.
    """
    longest, idle = _size(partial), 0
    while True:
        continued = _size(partial) > 0
        try:
            _receive(url, file, partial)
            if _matches(file, partial):
                return
            partial.unlink()
            # What a download was continued from may have been wrong before.
            raise (_Failed if continued else _Useless)("the content is not the expected one")
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
    """Appends to ``partial`` what is missing, or begins anew if the server can't continue.

    Raises:
        _Failed: the transfer ended early; what came is kept.
        _Useless: the server isn't there or has something else.
    """
    have = _size(partial)
    if have and have == file.size:
        return  # a process was stopped right before the verification
    headers = HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return  # complete already
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
                raise _Failed("it continued at another place than asked for")
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
    """What comes, as it comes; errors of the connection, not of the disk, become :class:`_Failed`."""
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
