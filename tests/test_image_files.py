"""Image files as people have them, against pixels written down here and the files that torchvision finds."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import PIXELS, read, refused, save
from PIL import ExifTags, Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS

from late_phase.data import image_files, image_folder
from late_phase.data.image_files import EXTENSIONS, read_image, without_warnings
from late_phase.data.imagenet import StreamedImages


def in_folder(path: Path) -> torch.Tensor:
    return image_folder.decode([path], None, "")


def in_imagenet(path: Path) -> torch.Tensor:
    return next(StreamedImages((path,), torch.zeros(1).long(), workers=0).batches(1)).pixels


READERS: list[Callable[[Path], torch.Tensor]] = [in_folder, in_imagenet]


def check(path: Path, expected: np.ndarray) -> None:
    """All readers make the same of a file as of the expected pixels in a plain file."""
    plain = save(path.parent / "expected.png", expected)
    with without_warnings():
        assert np.array_equal(np.asarray(read_image(path)), expected)
    for reader in READERS:
        assert torch.equal(reader(path), reader(plain)), reader.__name__


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


# ------------------------------------------------------------------------------------------------------------------ cache


def test_images_of_another_way_of_decoding_are_decoded_anew(tmp_path, monkeypatch):
    """Of the way before pictures were upright, for example; and of streamed images what was predicted of them."""
    root = tmp_path / "pets"
    for split in ("train", "test"):
        save(root / split / "cat/a.png")
    streamed = StreamedImages((root / "train/cat/a.png",), torch.zeros(1).long(), workers=0)
    with monkeypatch.context() as patched:
        for module in ("image_folder", "imagenet"):
            patched.setattr(f"late_phase.data.{module}.DECODING", image_files.DECODING - 1)
        patched.setattr(image_folder, "read_image", lambda path: Image.new("RGB", (7, 5)))
        assert not read(root).train.pixels.any()
        before = streamed.fingerprint()
    assert np.array_equal(read(root).train.pixels[0].permute(1, 2, 0), PIXELS)
    assert streamed.fingerprint() != before
