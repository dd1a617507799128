"""Text as bytes, split in order: the first 90 % to train on, 5 % for validation, the last 5 % for the test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from late_phase.data.archives import fetch_extracted
from late_phase.data.download import Download, verified
from late_phase.errors import UserError

ARCHIVE = Download(
    "enwik8.zip",
    ("https://mattmahoney.net/dc/enwik8.zip", "http://mattmahoney.net/dc/enwik8.zip", "https://data.deepai.org/enwik8.zip"),
    36_445_475,
    "sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
)
MEMBER = Download("enwik8", (), 100_000_000, "md5:a1fa5ffddb56f4953e226637dabbb36a")
SMALLEST = 20
"""Bytes of a text no part of which is empty."""


@dataclass(frozen=True)
class Text:
    """``train``, ``validation`` and ``test``, each ``[bytes]`` uint8; large texts are mapped into memory."""

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor

    def sha256(self) -> str:
        """The checksum of the whole text, in hexadecimal digits."""
        found = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            found.update(part.numpy().data)
        return found.hexdigest()


def load_enwik8(root: str) -> Text:
    """The first 100 million bytes of the English Wikipedia of 3 March 2006: 90, 5 and 5 million, from ``root`` or the network.

    Raises:
        UserError: neither the text nor its archive is in the folder ``root`` or to be had.
    """
    path = fetch_extracted(ARCHIVE, Path(root), MEMBER.name, whole=lambda path: verified(MEMBER, path))
    return _split("enwik8", _map(path))


def load_pydocs() -> Text:
    """The language reference that comes with Python, about 0.5 MB of English; it differs between versions of Python."""
    from pydoc_data.topics import topics

    content = "\n".join(topics[name] for name in sorted(topics)).encode()
    return _split("pydocs", torch.frombuffer(bytearray(content), dtype=torch.uint8))


def load_file(path: str) -> Text:
    """Any file.

    Raises:
        UserError: it can't be read or is too short to be split.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        with file.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"dataset.path={path} can't be read ({error.strerror}): give a file of text.") from error
    if size < SMALLEST:
        raise UserError(f"dataset.path={path} has {size} bytes: give a file of at least {SMALLEST}.")
    return _split(file.stem, _map(file))


def _map(path: Path) -> Tensor:
    """A file's bytes, read when they are used; writing to them would not change the file."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


def _split(name: str, content: Tensor) -> Text:
    train, validation = len(content) * 90 // 100, len(content) * 95 // 100
    return Text(name, content[:train], content[train:validation], content[validation:])
