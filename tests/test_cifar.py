"""Tiny archives in the exact format of CIFAR's, without a network: the only address that is tried is this computer's own."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import loopback
import numpy as np
import pytest
import torch
from loopback import Reply, Server

from late_phase.data import download, load
from late_phase.data.cifar import ARCHIVES, SOURCES
from late_phase.data.images import Dataset
from late_phase.support.errors import UserError


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did its ``str``, and arrays as the numpy of its time."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_array(self, value: np.ndarray) -> None:
        self.write(b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n")
        self.save((0,))
        self.save(b"b")
        self.write(pickle.TUPLE3 + pickle.REDUCE + pickle.MARK)
        self.save(1)
        self.save(value.shape)
        self.write(b"cnumpy\ndtype\n")
        self.save((b"u1", 0, 1))
        self.write(pickle.REDUCE)
        self.save((3, b"|", None, None, None, -1, -1, 0))
        self.write(pickle.BUILD)
        self.save(False)
        self.save(value.tobytes())
        self.write(pickle.TUPLE + pickle.BUILD)

    dispatch[bytes] = save_bytes
    dispatch[np.ndarray] = save_array


def dump(content: dict[bytes, object]) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": tuple(f"class_{i:02}" for i in range(100)),
}


class Tiny:
    """A dataset like CIFAR-10 or CIFAR-100 with four images per file, as an archive and as the tensors that are in it."""

    def __init__(self, name: str) -> None:
        self.name, self.source = name, SOURCES[name]
        random = np.random.default_rng(len(name))
        files = {}
        self.pixels: dict[str, list[np.ndarray]] = {}
        self.labels: dict[str, list[int]] = {}
        for split, listed in (("train", self.source.train_list), ("test", self.source.test_list)):
            for file, _ in listed:
                rows = random.integers(0, 256, (4, 3072), dtype=np.uint8)
                labels = random.integers(0, len(CLASSES[name]), 4).tolist()
                filenames = [b"%d.png" % i for i in range(4)]
                batch: dict[bytes, object] = {b"batch_label": file.encode(), b"filenames": filenames, b"data": rows}
                if name == "cifar10":
                    batch[b"labels"] = labels
                else:
                    batch |= {b"fine_labels": labels, b"coarse_labels": [label // 5 for label in labels]}
                files[file] = dump(batch)
                self.pixels.setdefault(split, []).append(rows)
                self.labels.setdefault(split, []).extend(labels)
        names = [c.encode() for c in CLASSES[name]]
        if name == "cifar10":
            files["batches.meta"] = dump({b"num_cases_per_batch": 4, b"label_names": names, b"num_vis": 3072})
        else:
            files["meta"] = dump({b"fine_label_names": names, b"coarse_label_names": [b"group_%02d" % i for i in range(20)]})
        self.files = files
        self.archive = self.pack(files)

    def pack(self, files: dict[str, bytes]) -> bytes:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for file, content in files.items():
                member = tarfile.TarInfo(f"{self.source.base_folder}/{file}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return archive.getvalue()

    def announce(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        """Makes these files known in place of the originals, and where to download them."""

        def listed(of: list[list[str]]) -> list[list[str]]:
            return [[file, md5(self.files[file])] for file, _ in of]

        monkeypatch.setattr(self.source, "train_list", listed(self.source.train_list))
        monkeypatch.setattr(self.source, "test_list", listed(self.source.test_list))
        meta = self.source.meta
        monkeypatch.setattr(self.source, "meta", meta | {"md5": md5(self.files[meta["filename"]])})
        self.download = replace(ARCHIVES[self.name], urls=(url,), size=len(self.archive), checksum=f"md5:{md5(self.archive)}")
        monkeypatch.setitem(ARCHIVES, self.name, self.download)

    def extract(self, folder: Path) -> None:
        for file, content in self.files.items():
            path = folder / self.source.base_folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def place(self, folder: Path, content: bytes | None = None) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.source.filename
        path.write_bytes(self.archive if content is None else content)
        return path

    def check(self, dataset: Dataset) -> None:
        """Rows are 1024 red, 1024 green and 1024 blue pixels, each from the top row on."""
        assert dataset.name == self.name
        assert dataset.classes == CLASSES[self.name]
        assert dataset.validation is None
        for split in ("train", "test"):
            images = getattr(dataset, split)
            assert images.pixels.dtype == torch.uint8 and images.pixels.is_contiguous()
            assert np.array_equal(images.pixels.numpy(), np.concatenate(self.pixels[split]).reshape(-1, 3, 32, 32))
            assert images.labels.dtype == torch.int64 and images.labels.tolist() == self.labels[split]


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def closed_port(monkeypatch) -> Iterator[str]:
    """An address at which every connection is refused, in place of the real one, and no way around it."""
    loopback.without_proxies(monkeypatch)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    with loopback.closed_port() as url:
        for name, file in ARCHIVES.items():
            monkeypatch.setitem(ARCHIVES, name, replace(file, urls=(url,)))
        yield url


@pytest.fixture(params=["cifar10", "cifar100"])
def tiny(request, monkeypatch, closed_port) -> Tiny:
    data = Tiny(request.param)
    data.announce(monkeypatch, closed_port)
    return data


@pytest.fixture
def server() -> Iterator[Server]:
    with loopback.running() as server:
        yield server


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix not in (".lock", ".verified")}


def test_the_format_is_that_of_python_2(tiny):
    """Keys and names are byte strings; as torchvision reads them, text."""
    content = tiny.files[tiny.source.train_list[0][0]]
    assert set(pickle.loads(content, encoding="bytes")) >= {b"data", b"labels" if tiny.name == "cifar10" else b"fine_labels"}
    assert "data" in pickle.loads(content, encoding="latin1")


def test_files_that_are_there_are_read(tiny, tmp_path):
    tiny.extract(tmp_path)
    tiny.check(load(tiny.name, root=str(tmp_path)))
    assert names(tmp_path) == {tiny.source.base_folder}


def test_an_archive_that_is_there_is_extracted_without_a_network(tiny, tmp_path):
    archive = tiny.place(tmp_path)
    for _ in range(2):
        tiny.check(load(tiny.name, root=str(tmp_path)))
        assert names(tmp_path) == {tiny.source.base_folder, tiny.source.filename}
    assert archive.read_bytes() == tiny.archive and not archive.is_symlink()
    archive.unlink()
    tiny.check(load(tiny.name, root=str(tmp_path)))


def test_a_link_to_an_archive_will_do(tiny, tmp_path, monkeypatch):
    """Relative to a folder named relatively, too."""
    archive = tiny.place(tmp_path / "shared")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / tiny.source.filename).symlink_to(Path("../shared") / tiny.source.filename)
    monkeypatch.chdir(tmp_path)
    tiny.check(load(tiny.name, root="data"))
    assert archive.read_bytes() == tiny.archive


@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "changed meta"])
def test_damaged_files_are_extracted_again(tiny, tmp_path, damage):
    tiny.place(tmp_path)
    tiny.extract(tmp_path)
    file = tiny.source.meta["filename"] if "meta" in damage else tiny.source.test_list[0][0]
    path = tmp_path / tiny.source.base_folder / file
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] + (b"" if damage == "shortened" else b"x" * 9))
    tiny.check(load(tiny.name, root=str(tmp_path)))
    assert path.read_bytes() == tiny.files[file]


def test_both_datasets_share_a_folder(tmp_path, monkeypatch, closed_port):
    both = [Tiny(name) for name in SOURCES]
    for data in both:
        data.announce(monkeypatch, closed_port)
        data.place(tmp_path)
    for data in both + both:
        data.check(load(data.name, root=str(tmp_path)))


def refused(tiny: Tiny, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load(tiny.name, root=str(folder))
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message
    file = tiny.download
    for part in (f"dataset.root={folder}", file.name, file.checksum.replace(":", " "), f"{file.size:,} bytes", *file.urls):
        assert part in message
    return message


def test_without_files_and_network_it_says_what_to_put_where(tiny, tmp_path):
    """Nothing is left behind but the lock, and the next time is no worse."""
    folder = tmp_path / "new" / "data"
    for _ in range(2):
        assert re.search("refused", refused(tiny, folder))
        assert names(folder) == set()
    tiny.place(folder)
    tiny.check(load(tiny.name, root=str(folder)))


def test_a_wrong_archive_is_left_alone_without_a_network(tiny, tmp_path):
    archive = tiny.place(tmp_path, tiny.archive[:100])
    refused(tiny, tmp_path)
    assert archive.read_bytes() == tiny.archive[:100]
    assert names(tmp_path) == {tiny.source.filename}


def test_a_file_that_is_incomplete_stays_when_there_is_no_network(tiny, tmp_path):
    """What is in the folder is replaced by something whole or not at all."""
    tiny.extract(tmp_path)
    (tmp_path / tiny.source.base_folder / tiny.source.test_list[0][0]).unlink()
    refused(tiny, tmp_path)
    assert names(tmp_path / tiny.source.base_folder) == set(tiny.files) - {tiny.source.test_list[0][0]}


def test_it_is_downloaded_once(tiny, tmp_path, monkeypatch, server):
    tiny.announce(monkeypatch, server.serve("cifar", tiny.archive, Reply(cut=1000), Reply()))
    for _ in range(2):
        tiny.check(load(tiny.name, root=str(tmp_path / "data")))
        assert names(tmp_path / "data") == {tiny.source.base_folder}
    assert server.ranges("cifar") == [None, "bytes=1000-"]


@pytest.mark.parametrize("served", ["half", "another file"])
@pytest.mark.parametrize("placed", [None, b"precious"])
def test_a_bad_download_leaves_what_was_there(tmp_path, monkeypatch, server, served, placed):
    tiny = Tiny("cifar100")
    content = tiny.archive[: len(tiny.archive) // 2] if served == "half" else b"<html>Please sign in.</html>"
    tiny.announce(monkeypatch, server.serve("cifar", content))
    if placed is not None:
        archive = tiny.place(tmp_path / "data", placed)
    refused(tiny, tmp_path / "data")
    assert names(tmp_path / "data") == (set() if placed is None else {tiny.source.filename})
    assert placed is None or archive.read_bytes() == placed


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("which", ["train", "test", "meta"])
def test_a_pickle_that_calls_code_is_not_read(tiny, tmp_path, which):
    """In an extracted folder, and in an archive."""
    file = {"train": tiny.source.train_list[2 % len(tiny.source.train_list)][0], "test": tiny.source.test_list[0][0]}.get(
        which, tiny.source.meta["filename"]
    )
    trace = tmp_path / "trace"
    evil = pickle.dumps(Evil(trace))
    pickle.loads(evil)
    trace.unlink()  # it would
    folder = tmp_path / "data"
    tiny.extract(folder)
    (folder / tiny.source.base_folder / file).write_bytes(evil)
    refused(tiny, folder)
    tiny.place(folder, tiny.pack(tiny.files | {file: evil}))
    refused(tiny, folder)
    tiny.place(folder)
    tiny.check(load(tiny.name, root=str(folder)))
    assert not trace.exists()


def test_the_originals_are_what_is_asked_for(monkeypatch):
    """The same as torchvision's, and the checksums on the page of the datasets."""
    monkeypatch.undo()
    for name, source in SOURCES.items():
        file = ARCHIVES[name]
        assert (file.name, file.checksum, file.urls[0]) == (source.filename, f"md5:{source.tgz_md5}", source.url)
    assert ARCHIVES["cifar10"].checksum == "md5:c58f30108f718f92721af3b95e74349a"
    assert ARCHIVES["cifar100"].checksum == "md5:eb9058c3a382ffc7106e4002c42a8d85"


def test_root_is_a_file(tmp_path, closed_port):
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError):
        load("cifar10", root=str(tmp_path / "f"))
