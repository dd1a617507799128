"""Text from a small file in enwik8's archive, from Python's own documentation, and from any file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback import running, without_proxies

from late_phase.data import load, text
from late_phase.data.download import Download
from late_phase.data.text import Text
from late_phase.support.errors import UserError

CONTENT = np.random.default_rng(0).bytes(2000)


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """``enwik8.zip`` with one file of 2,000 bytes, the checksums of both known."""
    path = tmp_path / "enwik8.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("enwik8", CONTENT)
    zipped = path.read_bytes()
    monkeypatch.setattr(text, "ARCHIVE", Download("enwik8.zip", (), len(zipped), f"sha256:{hashlib.sha256(zipped).hexdigest()}"))
    digest = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(text, "MEMBER", Download("enwik8", (), len(CONTENT), f"md5:{digest}"))
    return path


def check(found: Text) -> None:
    parts = (found.train, found.validation, found.test)
    assert [part.numpy().tobytes() for part in parts] == [CONTENT[:1800], CONTENT[1800:1900], CONTENT[1900:]]
    assert all(part.dtype == torch.uint8 for part in parts)
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_an_archive_and_an_extracted_file(archive):
    found = load("enwik8", root=str(archive.parent))
    check(found)
    assert found.name == "enwik8"
    archive.unlink()
    check(load("enwik8", root=str(archive.parent)))


def test_a_download(archive, tmp_path, monkeypatch):
    without_proxies(monkeypatch)
    root = tmp_path / "new"
    with running() as server:
        url = server.serve("enwik8.zip", archive.read_bytes())
        monkeypatch.setattr(text, "ARCHIVE", Download(text.ARCHIVE.name, (url,), text.ARCHIVE.size, text.ARCHIVE.checksum))
        for _ in range(2):
            check(load("enwik8", root=str(root)))
        assert len(server.requests) == 1
    assert {path.name for path in root.iterdir() if path.suffix != ".lock"} == {"enwik8", ".enwik8.verified"}


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?", b""])
def test_a_damaged_file_is_extracted_again_or_refused(archive, content):
    path = archive.parent / "enwik8"
    path.write_bytes(content)
    check(load("enwik8", root=str(archive.parent)))
    archive.unlink()
    os.utime(path, ns=(1, 1))
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"lacks enwik8\.zip"):
        load("enwik8", root=str(archive.parent))


def test_the_original_is_split_as_everybody_does():
    """90, 5 and 5 million bytes."""
    found = text.split("enwik8", torch.zeros(1, dtype=torch.uint8).expand(text.MEMBER.size))
    assert [len(part) for part in (found.train, found.validation, found.test)] == [90_000_000, 5_000_000, 5_000_000]


def test_pythons_documentation_is_english_text():
    found = load("pydocs")
    content = bytes(torch.cat((found.train, found.validation, found.test)).tolist())
    assert 300_000 < len(content) < 1_000_000
    assert found.sha256 == load("pydocs").sha256 == hashlib.sha256(content).hexdigest()
    english = content.decode()
    assert english.count(" the ") > 2000 and "The assert statement" in english.replace('"', "")


def test_any_file_is_mapped_and_not_written_to(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(CONTENT)
    found = load("text_file", path=str(path))
    check(found)
    assert found.name == "mine"
    found.train.zero_()
    assert path.read_bytes() == CONTENT


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"^dataset\.path=.*pipe is a directory or a device: give a file of text\.$"):
        load("text_file", path=str(tmp_path / "pipe"))


@pytest.mark.parametrize("content", [None, b"", b"x" * 39])
def test_a_file_that_is_too_short_or_absent_is_refused(tmp_path, content):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"^dataset\.path=.*mine\.txt .*: give a file of .*\.$"):
        load("text_file", path=str(path))
    path.write_bytes(b"x" * 40)
    found = load("text_file", path=str(path))
    assert [len(part) for part in (found.train, found.validation, found.test)] == [36, 2, 2]
