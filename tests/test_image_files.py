"""Image files as people have them, against pixels written down here and the files that torchvision finds."""

from __future__ import annotations

import io
import os
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from late_phase.data import image_files, image_folder, load
from late_phase.data.image_files import EXTENSIONS, list_images, list_splits, read_image, without_warnings
from late_phase.data.imagenet import StreamedImages
from late_phase.data.images import Dataset
from late_phase.support.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def in_folder(path: Path) -> torch.Tensor:
    return image_folder.decode([path], None, "")


def in_imagenet(path: Path) -> torch.Tensor:
    return next(StreamedImages((path,), torch.zeros(1).long(), workers=0).batches(1)).pixels


READERS: list[Callable[[Path], torch.Tensor]] = [in_folder, in_imagenet]


def save(path: Path, pixels: np.ndarray | Image.Image = PIXELS, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def check(path: Path, expected: np.ndarray) -> None:
    """All readers make the same of a file as of the expected pixels in a plain file."""
    plain = save(path.parent / "expected.png", expected)
    with without_warnings():
        assert np.array_equal(np.asarray(read_image(path)), expected)
    for reader in READERS:
        assert torch.equal(reader(path), reader(plain)), reader.__name__


def refused(call: Callable[[], object], *fragments: str) -> str:
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert message.isprintable() and message.endswith("."), message
    message.encode()
    for fragment in fragments:
        assert fragment in message, message
    return message


# --------------------------------------------------------------------------------------------------------------- upright

SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""EXIF 2.3, table 6: orientation -> where the 0th row and the 0th column of the stored image are in the picture."""


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The picture, pixel by pixel."""
    first_row, first_column = SIDES[orientation]
    rows, columns = stored.shape[:2]
    height, width = (rows, columns) if first_row in ("top", "bottom") else (columns, rows)
    picture = np.empty((height, width, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            at = {}
            for side, number in ((first_row, row), (first_column, column)):
                axis, length = ("y", height) if side in ("top", "bottom") else ("x", width)
                at[axis] = number if side in ("top", "left") else length - 1 - number
            picture[at["y"], at["x"]] = stored[row, column]
    return picture


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    data[ExifTags.Base.Make] = "a camera"
    return data.tobytes()


FORMATS = {
    "jpg": {"quality": 95},
    "png": {},
    "webp": {"lossless": True},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "avif": {"speed": 10, "quality": 100},
}


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("orientation", SIDES)
def test_pictures_are_upright(tmp_path, extension, orientation):
    options = FORMATS[extension]
    with Image.open(save(tmp_path / f"plain.{extension}", **options)) as image:
        stored = np.asarray(image.convert("RGB"))
    check(save(tmp_path / f"photo.{extension}", exif=exif(orientation), **options), upright(stored, orientation))


@pytest.mark.parametrize("pixels", [PIXELS[..., 0], PIXELS[..., 0].astype(np.uint16) << 8], ids=["8 bits", "16 bits"])
def test_grey_pictures_are_upright(tmp_path, pixels):
    grey = PIXELS[..., :1].repeat(3, 2)
    check(save(tmp_path / "a.png", pixels, exif=exif(6)), upright(grey, 6))
    check(save(tmp_path / "b.png", Image.fromarray(PIXELS[..., 0]).convert("P"), exif=exif(8)), upright(grey, 8))


def test_the_pages_of_a_document_are_upright(tmp_path):
    other = [Image.new("RGB", (9, 9))]
    path = save(tmp_path / "a.tif", exif=exif(6), save_all=True, append_images=other)
    check(path, upright(PIXELS, 6))


def test_orientation_in_xmp_data(tmp_path):
    """Where some programs have it."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    check(save(tmp_path / "a.webp", lossless=True, xmp=xmp), upright(PIXELS, 6))


def directory(*entries: tuple[int, int, int, bytes], more: bytes = b"") -> bytes:
    """EXIF data with these entries: tag, type, count, and four bytes."""
    packed = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + packed + bytes(4) + more


TURNED = (ExifTags.Base.Orientation, 3, 1, b"\0\6\0\0")
DAMAGED = {
    "empty": b"Exif\0\0",
    "no EXIF data": b"Exif\0\0this is something else",
    "cut short": exif(6)[:16],
    "cut short in an entry": directory(TURNED)[:-9],
    "a directory that is elsewhere": b"Exif\0\0II*\0\xff\xff\xff\xff",
    "an unknown orientation": exif(9),
    "no number": directory((ExifTags.Base.Orientation, 2, 1, b"6\0\0\0")),
    "a value that is elsewhere": directory((ExifTags.Base.Orientation, 4, 9, b"\xff\xff\xff\xff")),
    "an unknown type": directory((ExifTags.Base.Orientation, 99, 1, b"\0\6\0\0")),
}


def png_with(path: Path, data: bytes) -> Path:
    """A PNG with exactly these EXIF data, which Pillow would not write: a chunk between its header and its pixels."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    header, pixels = file.getvalue()[:33], file.getvalue()[33:]
    chunk = b"eXIf" + data.removeprefix(b"Exif\0\0")
    path.write_bytes(header + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + pixels)
    return path


def jpeg_with(path: Path, data: bytes) -> Path:
    """The same of a JPEG: a segment behind its first marker."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    path.write_bytes(file.getvalue()[:2] + segment + file.getvalue()[2:])
    return path


def test_data_put_into_a_file_are_read(tmp_path):
    check(png_with(tmp_path / "a.png", directory(TURNED)), upright(PIXELS, 6))
    with Image.open(save(tmp_path / "plain.jpg")) as image:
        check(jpeg_with(tmp_path / "a.jpg", directory(TURNED)), upright(np.asarray(image), 6))


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_exif_data_leave_the_picture_as_it_is(tmp_path, damage):
    """Without a warning, which tests take for an error."""
    check(png_with(tmp_path / "a.png", DAMAGED[damage]), PIXELS)
    with Image.open(save(tmp_path / "plain.jpg")) as image:
        check(jpeg_with(tmp_path / "a.jpg", DAMAGED[damage]), np.asarray(image))


def test_data_that_are_damaged_elsewhere_still_have_the_orientation(tmp_path):
    """A maker that is a fraction: Pillow's own function fails, as it writes all the data anew."""
    data = directory((ExifTags.Base.Make, 5, 1, b"\0\0\0\x26"), TURNED, more=b"\0\0\0\1\0\0\0\2")
    path = png_with(tmp_path / "a.png", data)
    with Image.open(path) as image, pytest.raises(AttributeError):
        ImageOps.exif_transpose(image)
    check(path, upright(PIXELS, 6))


def test_a_photo_that_fits_when_it_is_upright(tmp_path):
    """40 x 32 pixels as it is stored, beside others of 32 x 40."""
    pixels = np.random.default_rng(1).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    root = tmp_path / "photos"
    save(root / "train/a/0.png", pixels, exif=exif(6))
    for name in ("train/a/1", "train/a/2", "test/a/0"):
        save(root / f"{name}.png", pixels.transpose(1, 0, 2))
    dataset = read(root)
    assert dataset.train.pixels.shape == (3, 3, 40, 32)
    assert np.array_equal(dataset.train.pixels[0].permute(1, 2, 0), upright(pixels, 6))


# ----------------------------------------------------------------------------------------------------------------- pixels


def test_16_bits_are_scaled(tmp_path):
    deep = np.linspace(0, 65535, 35).reshape(5, 7).astype(np.uint16)
    expected = (deep >> 8).astype(np.uint8)[..., None].repeat(3, 2)
    for name in ("a.png", "a.tif"):
        check(save(tmp_path / name, deep), expected)
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 7 5 65535\n" + deep.astype(">u2").tobytes())
    check(path, expected)


def test_transparent_pixels_have_their_colours(tmp_path):
    palette, index = PIXELS.reshape(-1, 3)[:16], np.arange(35, dtype=np.uint8).reshape(5, 7) % 16
    image = Image.frombytes("P", (7, 5), index.tobytes())
    image.putpalette(palette.flatten().tolist())
    for name, transparency in (("a.png", 3), ("b.png", bytes(range(16))), ("a.gif", 3)):
        check(save(tmp_path / name, image, transparency=transparency), palette[index])
    check(save(tmp_path / "c.png", transparency=tuple(PIXELS[0, 0].tolist())), PIXELS)
    check(save(tmp_path / "d.png", PIXELS[..., 0], transparency=int(PIXELS[0, 0, 0])), PIXELS[..., :1].repeat(3, 2))
    alpha = np.dstack((PIXELS, PIXELS[..., 0]))
    for name, options in (("e.png", {}), ("e.webp", {"lossless": True, "exact": True}), ("e.tif", {})):
        check(save(tmp_path / name, alpha, **options), PIXELS)


def test_colours_of_print(tmp_path):
    """Cyan is no red at all, in a JPEG, whose numbers are inverted, as well as in a TIFF."""
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    expected = np.tile(np.array([0, 255, 255], np.uint8), (16, 16, 1))
    check(save(tmp_path / "a.tif", cyan), expected)
    read = np.asarray(read_image(save(tmp_path / "a.jpg", cyan, quality=100))).astype(int)
    assert np.abs(read - expected).max() < 4
    assert torch.equal(in_folder(tmp_path / "a.jpg")[0], torch.from_numpy(read).permute(2, 0, 1).byte())


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.apng", "a.tif", "a.mpo", "a.avif"])
def test_the_first_image_of_several(tmp_path, name):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    options = {"format": "PNG"} if name == "a.apng" else {"lossless": True} if name == "a.webp" else {}
    found = np.asarray(read_image(save(tmp_path / name, red, save_all=True, append_images=[blue], **options))).astype(int)
    assert found.shape == (16, 16, 3) and np.abs(found - [250, 0, 0]).max() < 10


@pytest.mark.parametrize("name", ["a.jp2", "a.jfif", "a.jpe", "a.JPG", "a.pbm", "a.pnm", "a.GIF", "a.Avif", "a.dib.bmp"])
def test_other_extensions_that_people_have(tmp_path, name):
    save(tmp_path / "set/train/a/0.png", np.full((8, 8, 3), 255, np.uint8))
    save(tmp_path / "set/train/a" / name, Image.new("1" if name == "a.pbm" else "RGB", (8, 8), "white"))
    save(tmp_path / "set/test/a/0.png", np.zeros((8, 8, 3), np.uint8))
    pixels = read(tmp_path / "set").train.pixels
    assert pixels.shape == (2, 3, 8, 8) and (pixels > 250).all()


def test_a_large_picture_is_read(tmp_path, monkeypatch):
    """Pillow warns of half the size that it refuses; afterwards warnings are as before."""
    pixels = np.random.default_rng(2).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    path, before = save(tmp_path / "a.png", pixels), warnings.filters[:]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    check(path, pixels)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    for reader in READERS:
        refused(lambda reader=reader: reader(path), f"{path} is not a readable image (Image size (90000 pixels) exceeds limit")
    assert warnings.filters == before


def test_all_that_torchvision_takes_is_taken():
    assert set(IMG_EXTENSIONS) < set(EXTENSIONS)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "empty", "dangling"])
def test_what_is_no_image(tmp_path, reader, kind):
    """A pipe, too, which would be waited for."""
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere.png")
    else:
        path.touch()
    refused(lambda: reader(path), f"{path} is not a readable image (", "): replace or remove it.")


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_avif(tmp_path, reader):
    """Its decoder has errors of another type."""
    path = save(tmp_path / "a.avif")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"pitm", b"????"))
    refused(lambda: reader(path), f"{path} is not a readable image (")


# ------------------------------------------------------------------------------------------------------------------ links


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes with two training images and one test image each."""
    for name in ("train/cat/a", "train/cat/b", "train/dog/a", "train/dog/b", "test/cat/a", "test/dog/a"):
        save(tmp_path / "pets" / f"{name}.png")
    return tmp_path / "pets"


def read(root: Path, **options) -> Dataset:
    return load("image_folder", root=str(root), cache=str(root.parent / "cache"), **{"image_size": None} | options)


def found(root: Path) -> list[tuple[str, int]]:
    """The training files, as torchvision lists them."""
    by_class = list_splits(str(root), ("train", "test"))["train"]
    return [(str(path), label) for label, paths in enumerate(by_class.values()) for path in paths]


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
    refused(lambda: read(root), f"the link {root / 'train/cat/self'} leads nowhere: mend or remove it")


@pytest.mark.parametrize("name", ["train/emu", "train/cat/more"])
def test_links_that_lead_nowhere_are_not_passed_over(root, name):
    """As those to folders on a disk that isn't there."""
    (root / name).symlink_to("/nowhere/at/all")
    refused(lambda: read(root), f"the link {root / name} leads nowhere: mend or remove it")


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


# ------------------------------------------------------------------------------------------------------------------ names


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


# ------------------------------------------------------------------------------------------------------------------ cache


def test_images_of_another_way_of_decoding_are_decoded_anew(root, monkeypatch):
    """Of the way before pictures were upright, for example; and of streamed images what was predicted of them."""
    streamed = StreamedImages((root / "train/cat/a.png",), torch.zeros(1).long(), workers=0)
    with monkeypatch.context() as patched:
        for module in ("image_folder", "imagenet"):
            patched.setattr(f"late_phase.data.{module}.DECODING", image_files.DECODING - 1)
        patched.setattr(image_folder, "read_image", lambda path: Image.new("RGB", (7, 5)))
        assert not read(root).train.pixels.any()
        before = streamed.fingerprint()
    assert np.array_equal(read(root).train.pixels[0].permute(1, 2, 0), PIXELS)
    assert streamed.fingerprint() != before
