"""Normalization constants against numpy in double precision, and splits of a dataset."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from late_phase.data.images import Dataset, Images, Normalization
from late_phase.support.errors import UserError


def images(n: int, channels: int = 3, size: int = 6, seed: int = 0) -> Images:
    random = np.random.default_rng(seed)
    return Images(torch.from_numpy(random.integers(0, 256, (n, channels, size, size), dtype=np.uint8)), torch.arange(n))


def dataset(train: int = 40, test: int = 15) -> Dataset:
    """Labels are the indices in the whole dataset, test images from 1000 on."""
    held_out = images(test, seed=1)
    return Dataset("toy", ("a", "b"), images(train), Images(held_out.pixels, held_out.labels + 1000))


# ----------------------------------------------------------------------------------------------------------- normalization


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3])
def test_constants_are_those_of_numpy_in_double_precision(channels, memory_format):
    some = images(50, channels)
    some.pixels[:, 0] //= 7  # channels differ
    exact = some.pixels.numpy().astype(np.float64) / 255
    found = Normalization.of(Images(some.pixels.contiguous(memory_format=memory_format), some.labels))
    np.testing.assert_allclose(found.mean, exact.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(found.std, exact.std((0, 2, 3)), rtol=1e-13)


def test_constants_of_two_values():
    """A quarter of the pixels at 255, the others at 0: mean 1/4, variance 3/16."""
    pixels = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    pixels[0, 0, 1, 1] = 255
    found = Normalization.of(Images(pixels, torch.zeros(1)))
    assert found.mean == (0.25,)
    assert found.std == pytest.approx((math.sqrt(3) / 4,), rel=1e-15)


@pytest.mark.parametrize("value", [0, 93, 255])
def test_a_constant_channel_is_refused(value):
    some = images(5)
    some.pixels[:, 1] = value
    with pytest.raises(UserError, match="channel 1 of the training images is constant") as error:
        Normalization.of(some)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalized_pixels_are_rounded_as_single_precision_is(memory_format):
    """Each of the 256 values of each channel: divided by 255, less the mean, by the standard deviation, rounded every time."""
    pixels = torch.arange(256, dtype=torch.uint8).view(2, 1, 16, 8).repeat(1, 3, 1, 1).contiguous(memory_format=memory_format)
    normalization = Normalization((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
    out = normalization(pixels)
    scaled = pixels.numpy().astype(np.float32) / np.float32(255)
    for channel, (mean, std) in enumerate(zip(normalization.mean, normalization.std, strict=True)):
        expected = (scaled[:, channel] - np.float32(mean)) / np.float32(std)
        assert np.array_equal(out[:, channel].numpy(), expected)
    assert out.dtype == torch.float32 and out.is_contiguous(memory_format=memory_format)
    assert pixels.flatten()[0] == 0 and pixels.max() == 255


def test_normalized_training_images_have_mean_0_and_variance_1():
    some = images(200, size=8)
    out = Normalization.of(some)(some.pixels).double()
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.var((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)


def test_one_normalization_takes_images_of_several_sizes_and_formats():
    normalization = Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    for size in (4, 6, 4):
        pixels = images(3, size=size).pixels
        expected = normalization(pixels)
        assert torch.equal(normalization(pixels.contiguous(memory_format=torch.channels_last)), expected)
        assert expected[1, 2, 3, 3].item() == pytest.approx((pixels[1, 2, 3, 3].item() / 255 - 0.3) / 4, abs=1e-7)


def test_json_returns_the_very_numbers():
    normalization = Normalization.of(images(7))
    assert Normalization.from_json(normalization.to_json()) == normalization


# ------------------------------------------------------------------------------------------------------------------ splits


def chosen(split: Images, whole: Images, first: int = 0) -> list[int]:
    """Indices of the images in ``whole``, whose pixels must be theirs."""
    indices = split.labels - first
    assert torch.equal(split.pixels, whole.pixels[indices])
    return indices.tolist()


def test_splits_are_disjoint_and_sorted():
    whole = dataset()
    parts = whole.split(validation=12, subset=20, test_subset=9, seed=0)
    train, validation = chosen(parts.train, whole.train), chosen(parts.validation, whole.train)
    test = chosen(parts.test, whole.test, 1000)
    assert (len(set(train)), len(set(validation)), len(set(test))) == (20, 12, 9)
    assert not set(train) & set(validation)
    for indices in (train, validation, test):
        assert indices == sorted(indices)
    assert (parts.name, parts.classes) == ("toy", ("a", "b"))
    assert parts.held_out() == {"test": parts.test, "validation": parts.validation}


def test_everything_is_kept_unless_told_otherwise():
    whole = dataset()
    parts = whole.split(0, None, None, seed=0)
    assert chosen(parts.train, whole.train) == list(range(40))
    assert chosen(parts.test, whole.test, 1000) == list(range(15))
    assert parts.validation is None
    assert parts.held_out() == {"test": parts.test}
    parts = whole.split(10, None, None, seed=0)
    assert sorted(chosen(parts.train, whole.train) + chosen(parts.validation, whole.train)) == list(range(40))


def test_the_choice_depends_on_the_seed_alone():
    def split(seed: int) -> tuple[list[int], list[int], list[int]]:
        parts = dataset().split(12, 20, 9, seed)
        return parts.train.labels.tolist(), parts.validation.labels.tolist(), parts.test.labels.tolist()

    torch.manual_seed(1)
    first = split(0)
    torch.manual_seed(2)
    assert split(0) == first
    assert all(a != b for a, b in zip(split(1), first, strict=True))


def test_validation_and_test_images_are_the_same_for_any_subset():
    whole = dataset()
    validation = {tuple(whole.split(10, subset, 9, 0).validation.labels.tolist()) for subset in (None, 1, 7, 30)}
    test = {tuple(whole.split(n, subset, 9, 0).test.labels.tolist()) for n, subset in ((0, None), (10, 1), (39, None))}
    assert len(validation) == len(test) == 1


def test_smaller_subsets_are_parts_of_larger_ones():
    whole = dataset()
    subsets = [set(whole.split(10, subset, None, 0).train.labels.tolist()) for subset in (1, 7, 20, None)]
    assert all(a < b for a, b in itertools.pairwise(subsets))


@pytest.mark.parametrize(("validation", "subset"), [(40, None), (41, None), (0, 41), (10, 31), (39, 2)])
def test_more_than_there_is_is_refused(validation, subset):
    with pytest.raises(
        UserError, match=rf"dataset\.validation={validation} and dataset\.subset={subset} ask for more than the 40"
    ) as error:
        dataset().split(validation, subset, None, 0)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(("validation", "subset"), [(39, None), (0, 40), (10, 30), (39, 1)])
def test_all_there_is_is_not(validation, subset):
    parts = dataset().split(validation, subset, 15, 0)
    assert len(parts.train) == (subset or 40 - validation)
    assert len(parts.test) == 15


def test_test_subset_too_large():
    some = Images(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.zeros(5).long())
    with pytest.raises(UserError):
        Dataset("toy", ("a",), some, some).split(0, None, 6, 0)


# ---------------------------------------------------------------------------------------------- images of another dataset


@pytest.mark.parametrize("size", [(32, 32), (9, 20), (64, 40), (40, 48)])
@pytest.mark.parametrize(("there", "wanted"), [(3, 3), (1, 1), (3, 1), (1, 3)])
def test_images_are_fitted_as_pillow_does(there, wanted, size):
    """Up to one grey level where the size changes, as Pillow rounds between rows and columns; else exactly."""
    random = np.random.default_rng(0)
    some = Images(torch.from_numpy(random.integers(0, 256, (6, there, 40, 48), dtype=np.uint8)), torch.arange(6))
    fitted = some.fit(wanted, size)
    assert fitted.pixels.dtype == torch.uint8 and fitted.shape == (wanted, *size) and fitted.labels.tolist() == list(range(6))
    for before, after in zip(some.pixels, fitted.pixels, strict=True):
        image = Image.fromarray(before.permute(1, 2, 0).numpy() if there == 3 else before[0].numpy())
        image = image.convert("L") if wanted == 1 else image
        expected = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR).convert("RGB" if wanted == 3 else "L"))
        difference = after.permute(1, 2, 0).numpy().astype(int) - expected.reshape(*size, wanted)
        assert np.abs(difference).max() <= (size != (40, 48))
    assert torch.equal(fitted.pixels, some.fit(wanted, size).pixels)


def test_images_that_fit_stay_as_they_are():
    some = images(5)
    assert some.fit(3, (6, 6)).pixels is some.pixels


def test_many_images_become_grey():
    some = images(2500, size=2)
    grey = some.fit(1, (2, 2))
    assert torch.equal(grey.pixels[[7, 1500, 2499]], some.take(torch.tensor([7, 1500, 2499])).fit(1, (2, 2)).pixels)


def test_other_channels_can_not_be_had():
    for there, wanted in ((2, 3), (3, 2), (4, 1)):
        with pytest.raises(UserError, match=f"images of {there} channels can't be shown to a model of {wanted}"):
            images(2, channels=there).fit(wanted, (6, 6))


def test_batches_are_the_images_in_order():
    some = images(10)
    parts = list(some.batches(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.pixels for part in parts]), some.pixels)
    assert torch.equal(torch.cat([part.labels for part in parts]), some.labels)


# -------------------------------------------------------------------------------------------------------- evaluation only


def for_evaluation(n: int = 15) -> Dataset:
    return Dataset("other", (), None, Images.unlabelled(images(n).pixels))


def test_unlabelled_images():
    assert for_evaluation().test.labels.tolist() == [-1] * 15 and for_evaluation().test.labels.dtype == torch.int64


def test_a_dataset_without_training_images():
    whole = for_evaluation().to(torch.device("cpu"))
    assert whole.train is None and set(whole.held_out()) == {"test"}
    part = whole.split(0, None, 6, seed=0)
    assert part.train is None and part.validation is None and len(part.test) == 6
    labelled = dataset()
    assert torch.equal(part.test.pixels, replace(labelled, test=whole.test).split(0, None, 6, seed=0).test.pixels)


@pytest.mark.parametrize(("validation", "subset"), [(1, None), (0, 1)])
def test_can_not_be_trained_on(validation, subset):
    for refused in (for_evaluation().training_images, lambda: for_evaluation().split(validation, subset, None, 0)):
        with pytest.raises(UserError, match=r"^dataset=other is for evaluation only .*: train on another dataset\.$"):
            refused()
    assert dataset().training_images() is not None
