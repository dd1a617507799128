"""Text as bytes, split in order: the first 90 % for training, then 5 % for validation, and the last 5 % for the test."""

from __future__ import annotations

import hashlib
import json
import mmap
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from late_phase.data.archives import fetch_extracted
from late_phase.data.download import Download, verified
from late_phase.support.errors import UserError

ARCHIVE = Download(
    "enwik8.zip",
    ("https://mattmahoney.net/dc/enwik8.zip", "http://mattmahoney.net/dc/enwik8.zip", "https://data.deepai.org/enwik8.zip"),
    36_445_475,
    "sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
)
MEMBER = Download("enwik8", (), 100_000_000, "md5:a1fa5ffddb56f4953e226637dabbb36a")
SMALLEST = 40
"""Bytes of the shortest text in which each part has a byte to predict and one before it."""

CHUNK = 2**20
"""Bytes of a mapped text that are processed at a time."""


@dataclass(frozen=True)
class Text:
    """The parts ``train``, ``validation`` and ``test`` of a text, each ``[bytes]`` uint8; large texts are mapped into memory.

    A text is its bytes, in any encoding: a character of several bytes is several predictions. A text for evaluation only has no
    part to train on. ``sha256`` is the checksum of the whole text in hexadecimal digits, even where only some of it is kept.
    """

    name: str
    train: Tensor | None
    validation: Tensor
    test: Tensor
    sha256: str

    def in_words(self) -> str:
        """Returns the amount of data in words."""
        return ", ".join(f"{len(getattr(self, part)):,} bytes {part}" for part in ("train", "validation", "test"))

    def held_out(self) -> dict[str, Tensor]:
        """Returns the parts that the model isn't trained on, by name."""
        return {"test": self.test, "validation": self.validation}

    def parts(self) -> dict[str, Tensor]:
        """Returns all parts of the text, by name."""
        return ({} if self.train is None else {"train": self.train}) | self.held_out()

    def take(self, subset: int | None, test_subset: int | None) -> Text:
        """Keeps the first ``subset`` bytes of the training part, and the first ``test_subset`` bytes of each other part.

        None keeps all bytes.

        Raises:
            UserError: a part has fewer bytes, or a number is below 2.
        """
        held_out = min(len(self.validation), len(self.test))
        for key, size, there in (("subset", subset, len(self.train)), ("test_subset", test_subset, held_out)):
            if size is not None and not 2 <= size <= there:
                raise UserError(f"dataset.{key}={size} is out of range for {self.name}: choose from 2 to {there}.")
        return replace(self, train=self.train[:subset], validation=self.validation[:test_subset], test=self.test[:test_subset])


@dataclass(frozen=True)
class Vocabulary:
    """The bytes that a model knows, in rising order; a byte's symbol is its place among them."""

    known: tuple[int, ...]

    @classmethod
    def of(cls, text: Text) -> Vocabulary:
        """Returns the bytes that occur anywhere in a text, including the parts held out: enwik8 has 205."""
        counts = torch.zeros(256, dtype=torch.int64)
        for part in text.parts().values():
            for chunk in part.split(CHUNK):
                counts += torch.bincount(chunk, minlength=256)
        return cls(tuple(counts.nonzero().flatten().tolist()))

    def __len__(self) -> int:
        return len(self.known)

    def to_json(self) -> str:
        return json.dumps({"bytes": self.known})

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        return cls(tuple(json.loads(text)["bytes"]))

    @cached_property
    def _table(self) -> Tensor:
        """Byte -> symbol, -1 for an unknown byte."""
        table = torch.full((256,), -1)
        table[list(self.known)] = torch.arange(len(self.known))
        return table

    def encode(self, content: Tensor) -> Tensor:
        """Converts bytes uint8 to symbols int64 of the same shape.

        Raises:
            ValueError: a byte is not in the vocabulary.
        """
        symbols = self._table[content.long()]
        if (symbols < 0).any():
            byte = int(content[symbols < 0][0])
            raise ValueError(
                f"the text has the byte 0x{byte:02x}, which is not among the {len(self)} bytes that the model knows: "
                "choose a text of the same bytes."
            )
        return symbols

    def decode(self, symbols: Tensor) -> bytes:
        """Converts symbols ``[n]`` to bytes."""
        return bytes(self.known[symbol] for symbol in symbols.tolist())


def load_enwik8(root: str) -> Text:
    """Loads the first 100 million bytes of the English Wikipedia of 3 March 2006, from ``root`` or the network.

    The parts have 90, 5 and 5 million bytes.

    Raises:
        UserError: the folder ``root`` has neither the text nor its archive, and the archive can't be downloaded.
    """
    path = fetch_extracted(ARCHIVE, Path(root), MEMBER.name, whole=lambda path: verified(MEMBER, path))
    return split("enwik8", _map(path))


def load_pydocs() -> Text:
    """Loads the language reference that comes with Python: about 0.5 MB of English, which differs between Python versions."""
    from pydoc_data.topics import topics

    content = "\n".join(topics[name] for name in sorted(topics)).encode()
    return split("pydocs", torch.frombuffer(bytearray(content), dtype=torch.uint8))


def load_file(path: str) -> Text:
    """Loads any file as a text.

    Raises:
        UserError: the file can't be read or is too short to split.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        if not file.is_file():  # opening a pipe would wait for a writer
            raise UserError(f"dataset.path={path} is a directory or a device: give a file of text.")
        with file.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"dataset.path={path} can't be read ({error.strerror}): give a file of text.") from error
    if size < SMALLEST:
        raise UserError(f"dataset.path={path} has {size} bytes: give a file of at least {SMALLEST} bytes.")
    return split(file.stem, _map(file))


def _map(path: Path) -> Tensor:
    """Maps the bytes of a file, which are read when they are used. Writing to them would not change the file."""
    with path.open("rb") as file:  # torch.from_file accepts only names in UTF-8
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def split(name: str, content: Tensor) -> Text:
    """Splits the bytes ``[n]`` uint8 of a text, at least ``SMALLEST`` of them, into its parts."""
    sha256 = hashlib.sha256()
    for chunk in content.split(CHUNK):
        sha256.update(chunk.numpy().tobytes())
    train, validation = len(content) * 90 // 100, len(content) * 95 // 100
    return Text(name, content[:train], content[train:validation], content[validation:], sha256.hexdigest())
