"""Minibatches against slow ways to the same images: numpy by pixel, PIL and torchvision by image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision import transforms

from late_phase.data.batches import Augmentation, TrainingBatches, crop_and_flip, crop_and_flip_by_pixel, cutout
from late_phase.data.images import Images, Normalization
from late_phase.support import memory
from late_phase.support.errors import UserError
from late_phase.support.seeding import generator

FORMATS = [torch.contiguous_format, torch.channels_last]
RAW = {channels: Normalization((0.0,) * channels, (1 / 255,) * channels) for channels in (1, 3)}
"""Leaves pixels as they are, to rounding."""


def random_images(n: int, channels: int, height: int, width: int, seed: int = 0) -> Images:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (n, channels, height, width), dtype=np.uint8)
    return Images(torch.from_numpy(pixels), torch.from_numpy(random.integers(0, 10, n)))


def numbered(n: int) -> Images:
    """Image i has one pixel of value i, and label i."""
    return Images(torch.arange(n, dtype=torch.uint8)[:, None, None, None], torch.arange(n))


def epoch(images: Images, number: int = 0, start: int = 0, **options) -> list[tuple[Tensor, Tensor]]:
    """The minibatches of an epoch, with the pixels' own values."""
    options = {"augmentation": Augmentation(), "batch_size": 8, "seed": 0} | options
    batches = TrainingBatches(images, RAW[images.pixels.shape[1]], **options)
    return [(inputs.round().to(torch.uint8), labels) for inputs, labels in batches.epoch(number, start)]


def order(n: int, number: int, seed: int) -> list[int]:
    return torch.cat([labels for _, labels in epoch(numbered(n), number, seed=seed)]).tolist()


# ------------------------------------------------------------------------------------------------------- crops and flips


def crop_slowly(images: Tensor, which: Tensor, dy: Tensor, dx: Tensor, flips: Tensor, size: tuple[int, int]) -> np.ndarray:
    """One image after the other, by slicing."""
    out = []
    for i, y, x, flip in zip(which.tolist(), dy.tolist(), dx.tolist(), flips.tolist(), strict=True):
        window = images[i].numpy()[:, y : y + size[0], x : x + size[1]]
        out.append(window[:, :, ::-1] if flip else window)
    return np.stack(out)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(
    ("padded", "size"), [((12, 12), (4, 4)), ((9, 14), (5, 11)), ((7, 3), (7, 1)), ((1, 6), (1, 6)), ((5, 5), (1, 1))]
)
def test_crops_and_flips_are_those_of_slicing(memory_format, channels, padded, size):
    """All corners of the first and the last image, mirrored and not, and random windows of random images."""
    images = random_images(6, channels, *padded).pixels.contiguous(memory_format=memory_format)
    bottom, right = padded[0] - size[0], padded[1] - size[1]
    corners = torch.tensor(list(itertools.product((0, 5), (0, bottom), (0, right), (0, 1))))
    high = torch.tensor([6, bottom + 1, right + 1, 2])
    windows = torch.cat((corners, (torch.rand(40, 4, generator=torch.Generator().manual_seed(1)) * high).long()))
    for which, dy, dx, flips in (windows.T, windows[windows[:, 3] == 0].T, windows[windows[:, 3] == 1].T, windows[:1].T):
        expected = torch.from_numpy(crop_slowly(images, which, dy, dx, flips, size))
        for crop in (crop_and_flip, crop_and_flip_by_pixel):
            found = crop(images, which, dy, dx, flips.bool(), size)
            assert found.dtype == torch.uint8
            assert torch.equal(found, expected), crop.__name__
    out = crop_and_flip(images, *windows.T[:3], windows[:, 3].bool(), size)
    assert out.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_cropping_leaves_the_images_alone(memory_format):
    images = random_images(3, 3, 6, 6).pixels.contiguous(memory_format=memory_format)
    before = images.clone()
    ones = torch.ones(2, dtype=torch.long)
    crop_and_flip(images, ones, ones, ones, ones.bool(), (4, 4)).fill_(0)
    crop_and_flip(images, ones, ones, ones, ~ones.bool(), (4, 4)).fill_(0)
    assert torch.equal(images, before)


class PrescribedCrop(transforms.RandomCrop):
    """torchvision's, at a place that isn't random."""

    def __init__(self, size: tuple[int, int], padding: int, dy: int, dx: int) -> None:
        super().__init__(size, padding)
        self.get_params = lambda image, size: (dy, dx, *size)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 32, 32), (3, 7, 10)])
def test_minibatches_are_those_of_torchvision_bit_for_bit(channels, height, width, channels_last):
    """RandomCrop with padding, RandomHorizontalFlip, ToTensor and Normalize, image by image, with the same random numbers."""
    n, padding = 41, 4
    images = random_images(n, channels, height, width)
    normalization = Normalization.of(images)
    batches = TrainingBatches(images, normalization, Augmentation(padding, flip=True), 16, seed=3, channels_last=channels_last)

    random = generator(3, "batches", 7)
    permutation = torch.randperm(n, generator=random).tolist()
    offsets = torch.randint(2 * padding + 1, (2, n), generator=random).T.tolist()
    flips = (torch.rand(n, generator=random) < 0.5).tolist()
    assert len(set(flips)) == 2
    expected = []
    for i, (dy, dx), flip in zip(permutation, offsets, flips, strict=True):
        pixels = images.pixels[i].permute(1, 2, 0).numpy()
        pipeline = transforms.Compose(
            [
                PrescribedCrop((height, width), padding, dy, dx),
                transforms.RandomHorizontalFlip(float(flip)),
                transforms.ToTensor(),
                transforms.Normalize(normalization.mean, normalization.std),
            ]
        )
        expected.append(pipeline(Image.fromarray(pixels[..., 0] if channels == 1 else pixels)))

    seen = list(batches.epoch(7))
    assert torch.equal(torch.cat([inputs for inputs, _ in seen]), torch.stack(expected))
    assert torch.equal(torch.cat([labels for _, labels in seen]), images.labels[permutation])
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert all(inputs.dtype == torch.float32 and inputs.is_contiguous(memory_format=memory_format) for inputs, _ in seen)


def test_crop_offsets_and_flips_are_uniform_and_independent():
    """A chi-squared test over all combinations, which are read off the crops of one image."""
    padding, height, width, n = 2, 5, 7, 10_000
    image = np.arange(1, height * width + 1, dtype=np.uint8).reshape(height, width)
    padded = np.pad(image, padding)
    cells = {}
    for dy, dx, flip in itertools.product(range(5), range(5), range(2)):
        window = padded[dy : dy + height, dx : dx + width]
        cells[(window[:, ::-1] if flip else window).tobytes()] = len(cells)
    assert len(cells) == 50
    images = Images(torch.from_numpy(image).expand(n, 1, -1, -1), torch.zeros(n, dtype=torch.long))
    counts = np.zeros(50)
    for inputs, _ in epoch(images, augmentation=Augmentation(padding, flip=True), batch_size=1000):
        for window in inputs.numpy():
            counts[cells[window.tobytes()]] += 1
    assert counts.sum() == n
    assert stats.chisquare(counts).pvalue > 0.001


def test_without_augmentation_images_are_themselves():
    images = random_images(20, 3, 6, 5)
    for inputs, labels in epoch(images):
        assert all(
            any(torch.equal(x, y) for y in images.pixels[images.labels == label]) for x, label in zip(inputs, labels, strict=True)
        )


# --------------------------------------------------------------------------------------------------------------- the epoch


@pytest.mark.parametrize(("n", "sizes"), [(21, [8, 8, 5]), (24, [8, 8, 8]), (3, [3]), (17, [8, 8, 1])])
def test_an_epoch_covers_every_image_once(n, sizes):
    batches = epoch(numbered(n))
    assert [len(labels) for _, labels in batches] == sizes
    assert len(TrainingBatches(numbered(n), RAW[1], Augmentation(), 8, seed=0)) == len(sizes)
    assert torch.cat([labels for _, labels in batches]).sort().values.tolist() == list(range(n))
    assert all(torch.equal(inputs.flatten().long(), labels) for inputs, labels in batches)


def test_an_epoch_is_a_function_of_seed_and_epoch():
    assert order(50, 3, seed=1) == order(50, 3, seed=1)
    different = [order(50, number, seed) for number in range(4) for seed in range(4)]
    assert all(a != b for a, b in itertools.combinations(different, 2))


def test_epochs_in_any_order_and_interleaved_are_the_same():
    images = random_images(30, 3, 8, 8)
    batches = TrainingBatches(images, RAW[3], Augmentation(2, True, 3), 7, seed=0)
    first, second = list(batches.epoch(0)), list(batches.epoch(1))
    torch.manual_seed(99)
    interleaved = zip(batches.epoch(1), batches.epoch(0), strict=True)
    for (ours, theirs), one, other in zip(interleaved, second, first, strict=True):
        assert all(map(torch.equal, (*ours, *theirs), (*one, *other)))
    assert not torch.equal(first[0][0], second[0][0])


def test_augmentation_leaves_the_order_alone():
    images = random_images(30, 3, 8, 8)
    images = Images(images.pixels, torch.arange(30))
    plain = torch.cat([labels for _, labels in epoch(images)])
    for augmentation in (Augmentation(4), Augmentation(4, True, 5)):
        assert torch.equal(torch.cat([labels for _, labels in epoch(images, augmentation=augmentation)]), plain)


def test_every_order_is_as_likely():
    counts: dict[tuple[int, ...], int] = dict.fromkeys(itertools.permutations(range(3)), 0)
    batches = TrainingBatches(numbered(3), RAW[1], Augmentation(), 3, seed=0)
    for number in range(600):
        ((_, labels),) = batches.epoch(number)
        counts[tuple(labels.tolist())] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("channels_last", [False, True])
def test_starting_in_the_middle_continues_exactly(channels_last):
    images = random_images(33, 3, 9, 8)
    options = {"augmentation": Augmentation(2, True, 4), "seed": 5, "channels_last": channels_last}
    whole = epoch(images, 2, **options)
    assert len(whole) == 5
    for start in range(6):
        rest = epoch(images, 2, start, **options)
        assert len(rest) == 5 - start
        for (inputs, labels), (expected, expected_labels) in zip(rest, whole[start:], strict=True):
            assert torch.equal(inputs, expected)
            assert torch.equal(labels, expected_labels)


# ------------------------------------------------------------------------------------------------------------------ cutout


@pytest.mark.parametrize("size", [1, 2, 3, 6, 40])
def test_cutout_is_a_clipped_square_of_zeros(size):
    """Around every pixel of the image; the square has ``size // 2`` pixels before its centre."""
    height, width = 5, 8
    centres = torch.tensor(list(itertools.product(range(height), range(width)))).T
    images = torch.rand(height * width, 2, height, width, generator=torch.Generator().manual_seed(0)) + 1
    expected = images.clone()
    for image, (y, x) in zip(expected, centres.T.tolist(), strict=True):
        for row in range(y - size // 2, y - size // 2 + size):
            for column in range(x - size // 2, x - size // 2 + size):
                if 0 <= row < height and 0 <= column < width:
                    image[:, row, column] = 0
    before = images.clone()
    assert torch.equal(cutout(images, centres, size), expected)
    assert torch.equal(images, before)


def test_cutout_has_the_mean_colour_and_uniform_centres():
    """A square of one pixel, so that its centre can be seen; it is zero after the normalization, and any pixel as likely."""
    n, height, width = 6000, 4, 6
    images = Images(torch.full((n, 3, height, width), 200, dtype=torch.uint8), torch.zeros(n, dtype=torch.long))
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    batches = TrainingBatches(images, normalization, Augmentation(cutout=1), n, seed=0)
    ((inputs, _),) = batches.epoch(0)
    erased = inputs == 0
    assert torch.equal(erased[:, 0], erased[:, 1]) and torch.equal(erased[:, 0], erased[:, 2])
    assert (erased[:, 0].sum((1, 2)) == 1).all()
    kept = torch.where(erased, normalization(images.pixels[:1]), inputs)
    assert torch.equal(kept, normalization(images.pixels))
    assert stats.chisquare(erased[:, 0].sum(0).flatten().numpy()).pvalue > 0.001


@pytest.mark.parametrize(("height", "width"), [(4, 6), (6, 4), (1, 1), (5, 5)])
def test_cutout_that_leaves_nothing_is_refused(height, width):
    """The largest one that isn't leaves a pixel of some image."""
    whole = 2 * max(height, width) - 1
    for size in (whole, whole + 1, 10**30):
        with pytest.raises(UserError, match=rf"^dataset\.cutout={size} always .* {width} x {height} pixels.*less than {whole}\.$"):
            epoch(random_images(3, 1, height, width), augmentation=Augmentation(cutout=size))
    images = torch.ones(height * width, 1, height, width)
    centres = torch.cartesian_prod(torch.arange(height), torch.arange(width)).T
    assert not cutout(images, centres, whole).any() and (whole == 1 or cutout(images, centres, whole - 1).any())


@pytest.mark.parametrize("padding", [10**8, 10**30])
def test_padding_that_does_not_fit_into_the_memory_is_refused(padding):
    with pytest.raises(UserError, match=rf"^dataset\.crop_padding={padding} around 3 images of 6 x 4 pixels needs about .* GiB"):
        epoch(random_images(3, 1, 4, 6), augmentation=Augmentation(padding))


def test_padding_that_just_fits_into_the_memory(monkeypatch):
    """Three images of 8 x 10 pixels in two channels: 480 bytes."""
    images, augmentation = random_images(3, 2, 4, 6), Augmentation(2)
    normalization = Normalization((0.5, 0.5), (1, 1))
    monkeypatch.setattr(memory, "available_memory", lambda: 480)
    TrainingBatches(images, normalization, augmentation, 2, seed=0)
    monkeypatch.setattr(memory, "available_memory", lambda: 479)
    with pytest.raises(UserError, match=r"dataset\.crop_padding=2 around 3 images"):
        TrainingBatches(images, normalization, augmentation, 2, seed=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_by_pixel_memory_format(memory_format):
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=memory_format)
    zero = torch.zeros(2, dtype=torch.long)
    out = crop_and_flip_by_pixel(images, zero, zero, zero, zero.bool(), (6, 6))
    assert out.is_contiguous(memory_format=memory_format)
