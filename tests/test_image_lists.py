"""Which files of a folder are its images, against those that torchvision finds: links, names, and what is passed over."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import read, refused, save
from torchvision.datasets import ImageFolder

from late_phase.data.image_files import list_images, list_splits


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes with two training images and one test image each."""
    for name in ("train/cat/a", "train/cat/b", "train/dog/a", "train/dog/b", "test/cat/a", "test/dog/a"):
        save(tmp_path / "pets" / f"{name}.png")
    return tmp_path / "pets"


def found(root: Path) -> list[tuple[str, int]]:
    """The training files, as torchvision lists them."""
    by_class = list_splits(str(root), ("train", "test"))["train"]
    return [(str(path), label) for label, paths in enumerate(by_class.values()) for path in paths]


# ---------------------------------------------------------------------------------------------------------------- links


def test_links_to_folders_are_followed_as_torchvision_does(root, tmp_path):
    for i in range(3):
        save(tmp_path / f"elsewhere/more/{i}.png")
        save(tmp_path / f"birds/{i}.png")
    (root / "train/cat/more").symlink_to(tmp_path / "elsewhere")
    (root / "train/dog/same").symlink_to("../cat")
    for split in ("train", "test"):
        (root / split / "emu").symlink_to(tmp_path / "birds")
    (root / "train/dog/one.png").symlink_to(tmp_path / "birds/0.png")
    (tmp_path / "link").symlink_to(root)
    for folder in (root, tmp_path / "link"):
        images = found(folder)
        assert sorted(images) == sorted(ImageFolder(str(folder / "train")).imgs)
        assert len(images) == 5 + 8 + 3
        assert read(folder).train.labels.tolist() == [0] * 5 + [1] * 8 + [2] * 3
    assert read(tmp_path / "link").name == "pets"


@pytest.mark.parametrize("target", [".", "..", "../..", "../cat", "sub", "/"])
def test_links_that_lead_back_are_not_followed(root, target):
    """To its own folder, to one above, by another name, and out of a folder below; nothing else is left out."""
    save(root / "train/cat/sub/c.png")
    expected = found(root)
    if target == "sub":
        (root / "train/cat/sub/back").symlink_to("..")
    else:
        (root / "train/cat/back").symlink_to(target)
    assert found(root) == expected
    assert len(read(root).train) == 5


def test_links_that_lead_to_one_another_end(root):
    for a, b in (("cat", "dog"), ("dog", "cat")):
        (root / "train" / a / "other").symlink_to(f"../{b}")
    assert len(found(root)) == 8, "each class once in itself and once in the other"


def test_a_link_to_itself_leads_nowhere(root):
    (root / "train/cat/self").symlink_to("self")
    refused(lambda: read(root), f"the link {root / 'train/cat/self'} leads nowhere: repair or remove it")


@pytest.mark.parametrize("name", ["train/emu", "train/cat/more"])
def test_links_that_lead_nowhere_are_not_passed_over(root, name):
    """As those to folders on a disk that isn't there."""
    (root / name).symlink_to("/nowhere/at/all")
    refused(lambda: read(root), f"the link {root / name} leads nowhere: repair or remove it")


def test_a_class_that_is_a_link_back_has_no_image(root):
    (root / "train/all").symlink_to(".")
    refused(lambda: read(root), f"the class folder {root / 'train/all'} has no image")


def test_a_folder_that_cannot_be_read_is_not_passed_over(root, monkeypatch):
    save(root / "train/cat/locked/c.png")
    original = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(lambda: read(root), f"{root / 'train/cat/locked'} can't be read (Permission denied): change its permissions")


# ---------------------------------------------------------------------------------------------------------------- names


def named(*parts: bytes) -> str:
    return os.fsdecode(b"/".join(parts))


def test_names_that_are_not_utf_8(root, tmp_path):
    """Of a file, a class, a folder in it, and the whole; the second time from the cache."""
    root = root.rename(tmp_path / named(b"t\xeates"))
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / named(b"ch\xe4t"))
    (root / "train/dog/a.png").rename(root / "train/dog" / named(b"caf\xe9.png"))
    save(root / named(b"train/dog/\xff/c.png"))
    dataset = read(root)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1] and dataset.classes == (named(b"ch\xe4t"), "dog")
    assert dataset.name == r"t\xeates", "it is printed, and names folders"
    for path in root.rglob("*.png"):
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert torch.equal(read(root).train.pixels, dataset.train.pixels)
    refused(lambda: read(root, image_size=3), r"/t\xeates/train/ch\xe4t/a.png is not a readable image")


def test_names_that_are_not_utf_8_in_messages(root):
    (root / "train/dog").rename(root / "train" / named(b"d\xf6g"))
    refused(lambda: read(root), r"different classes in train and test (dog, d\xf6g)")
    (root / "train" / named(b"new\nline\x1b[31m")).mkdir()
    refused(lambda: read(root), r"new\nline\x1b[31m has no image")


def test_names_that_differ_in_such_bytes_differ(root):
    """A file takes another's place, of the same size and time."""
    before = save(root / "train/dog" / named(b"\xe9.png"))
    dataset = read(root)
    status = before.stat()
    after = before.rename(root / "train/cat" / named(b"\xe8.png"))
    os.utime(after, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1] and read(root).train.labels.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_classes_that_differ_in_the_form_of_unicode_are_the_same(root, form):
    """As macOS writes names in one form, and others in the other."""
    save(root / "train/zoo/a.png")
    save(root / "test/zoo/a.png")
    (root / "train/dog").rename(root / "train" / unicodedata.normalize(form, "déjà vu"))
    (root / "test/dog").rename(root / "test" / unicodedata.normalize("NFC" if form == "NFD" else "NFD", "déjà vu"))
    dataset = read(root)
    assert dataset.classes == ("cat", unicodedata.normalize("NFC", "déjà vu"), "zoo")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2] and dataset.test.labels.tolist() == [0, 1, 2]


def test_the_order_of_classes_does_not_depend_on_the_form_of_unicode(tmp_path):
    orders = []
    for form in ("NFC", "NFD"):
        for i, name in enumerate(("éa", "eb", "z")):
            for split in ("train", "test"):
                save(tmp_path / form / split / unicodedata.normalize(form, name) / "a.png", np.full((2, 2), i, np.uint8))
        orders.append((read(tmp_path / form).classes, read(tmp_path / form).train.pixels[:, 0, 0, 0].tolist()))
    assert orders[0] == orders[1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_two_classes_of_the_same_name_but_for_its_form_are_told_apart(root, split):
    for form in ("NFC", "NFD"):
        save(root / split / unicodedata.normalize(form, "café") / "a.png")
    refused(lambda: read(root), str(root / split), r"'cafe\u0301' and 'caf\xe9'", "put their images into one")


# -------------------------------------------------------------------------------------------------- what is passed over


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert not captured.out
    return captured.err.splitlines()


def test_nothing_is_said_where_nothing_is_passed_over(root, capsys):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.png", ".gitkeep"):
        for folder in ("train", "train/cat", "test/dog"):
            (root / folder / name).write_bytes(b"of a system")
    assert len(read(root).train) == 4
    assert said(capsys) == []


def test_what_is_passed_over_is_said_in_one_line(root, capsys):
    for name in (
        *("train/cat/a.heic", "train/cat/b.HEIC", "train/dog/sub/c.heic", "train/cat/notes.txt", "train/dog/labels"),
        *("train/cat/.hidden.png", "train/dog/.ipynb_checkpoints/a.png", "train/.trash/dog/a.png", "train/loose.png"),
        *("test/cat/a.psd", "test/README.md"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
    assert len(read(root).train) == 4
    line = (
        f"dataset.root={root}: files passed over in train: 3 .heic, 3 hidden, 1 .txt, 1 without extension, "
        "1 beside the class folders; in test: 1 .md, 1 .psd."
    )
    (found,) = said(capsys)
    assert sorted(found.replace(";", ",").split(", ")) == sorted(line.replace(";", ",").split(", "))
    read(root)
    assert said(capsys) == [found], "also where the images come from the cache"


def test_many_kinds_are_summed_up(root, capsys):
    for i in range(2000):
        (root / f"train/cat/a.{i:04}").touch()
    (root / "test/cat" / named(b"a.caf\xe9")).touch()
    read(root)
    (line,) = said(capsys)
    assert len(line) < 300 and line.endswith(r"1,994 of other kinds; in test: 1 .caf\xe9.")


def test_a_class_of_other_kinds_only_is_refused(root):
    for split in ("train", "test"):
        (root / split / "emu").mkdir()
        (root / split / "emu/a.heic").touch()
    refused(lambda: read(root), f"the class folder {root / 'train/emu'} has no image (.jpg, ", ".avif")


def test_images_in_a_folder_of_any_kind(tmp_path):
    save(tmp_path / "b/c.png")
    save(tmp_path / "a.jpg")
    save(tmp_path / ".hidden/c.png")
    (tmp_path / "a.txt").touch()
    (tmp_path / "b/up").symlink_to("..")
    assert list_images(tmp_path) == [tmp_path / "a.jpg", tmp_path / "b/c.png"]
