"""The ImageNet loader against torchvision's ImageFolder in a DataLoader, on JPEGs of ImageNet's size that are made here."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from late_phase.benchmark.plain import NORMALIZATION
from late_phase.benchmark.workloads import CPU, Sizes
from late_phase.data.batches import StreamedBatches
from late_phase.support.devices import cores
from late_phase.support.timing import EPOCH, Block, measure, timed

SIZE = (500, 375)
BYTES = 110_000
"""About the mean size of an image of ImageNet, in pixels and in bytes of its file."""

BATCH = 64
APPETITE = 3000
"""Images a second with which one H100 trains a ResNet-50 in bf16. This is the usual order of magnitude, not measured here."""
CORES = 16
"""Cores beside an H100 in a usual machine."""


def photo(random: np.random.Generator) -> Image.Image:
    """Returns a random picture with the spectrum of a photo: amplitudes fall as 1 / frequency."""
    width, height = SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    noise = random.standard_normal((3, height, width))
    waves = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    waves = waves[:1] + 0.3 * waves[1:].mean(0) + 0.2 * waves  # the channels of a photo are alike
    pixels = 128 + 50 * waves / waves.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def write_photos(folder: Path, count: int) -> None:
    """Writes ``count`` JPEGs of two classes below ``folder``, of about ``BYTES`` on average."""
    random, quality = np.random.default_rng(0), None
    for i in range(count):
        picture = photo(random)
        if quality is None:
            quality = min(range(50, 100), key=lambda quality: abs(len(encoded(picture, quality)) - BYTES))
        path = folder / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture, quality))


def encoded(picture: Image.Image, quality: int) -> bytes:
    file = BytesIO()
    picture.save(file, "jpeg", quality=quality)
    return file.getvalue()


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def stream_over_torchvision(name: str, workers: int, sizes: Sizes) -> dict[str, Any]:
    """Measures an epoch of decoded, cropped, mirrored and normalized images, always on the CPU.

    Without workers, both sides use one core. Otherwise each side starts its workers in each epoch, as both do by default. An epoch
    is short here, so this counts more often than it happens in training.

    Returns:
        The record of :func:`measure`, a gain, with images a second of ours: ``per_core``, of each pair; ``appetite``, of one H100;
        and ``cores``, those beside it.
    """
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from late_phase.data.imagenet import SIZE as CROP
    from late_phase.data.imagenet import StreamedImages

    use = deque(maxlen=0).extend
    with tempfile.TemporaryDirectory() as folder, one_thread():
        write_photos(Path(folder), sizes.photos)
        augmented = [transforms.RandomResizedCrop(CROP), transforms.RandomHorizontalFlip()]
        to_tensor = [transforms.ToTensor(), transforms.Normalize(NORMALIZATION.mean, NORMALIZATION.std)]
        theirs = ImageFolder(folder, transforms.Compose(augmented + to_tensor))
        loader = DataLoader(theirs, BATCH, shuffle=True, num_workers=workers)
        files = tuple(Path(path) for path, _ in theirs.samples)
        streamed = StreamedImages(files, torch.tensor(theirs.targets), workers)
        batches = StreamedBatches(streamed, NORMALIZATION, BATCH, seed=0)

        def block(minibatches: Callable[[], Iterable]) -> Block:
            return lambda: timed(lambda: use(minibatches()), CPU, sizes.photos)

        ours, reference = block(lambda: batches.epoch(0)), block(lambda: loader)
        record = measure(f"stream_over_torchvision_{name}", None, ours, reference, sizes.pairs, gain=True)
    per_core = [EPOCH / (seconds * max(1, workers)) for seconds, _ in record["seconds"]]
    return record | {"per_core": per_core, "appetite": APPETITE, "cores": CORES}


def streaming(sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Yields the measurement on one core, and the one with a worker for each core."""
    for name, workers in (("one_core", 0), ("all_cores", cores())):
        yield stream_over_torchvision(name, workers, sizes)
