"""ImageNet's folders and archives, made small, and the stream of minibatches from them."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import imagenet as originals
from torchvision.transforms import v2

from late_phase.data import imagenet
from late_phase.data.imagenet import StreamedImages
from late_phase.data.images import Dataset
from late_phase.support.errors import UserError
from late_phase.support.seeding import generator, global_generators

CLASSES = ("n01440764", "n01443537", "n02119789")
VALIDATION = (1, 0, 2, 1, 0)
"""Classes of the validation images, in the order of their numbers."""


def jpeg(seed: int, mode: str = "RGB") -> bytes:
    """A smooth image of a size of its own."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    coarse.resize((260 + 10 * (seed % 5), 250 + 15 * (seed % 3)), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def training_files() -> dict[str, bytes]:
    """Four images of each class; one is grey and one in CMYK, as a few of the originals are."""
    modes = {1: "L", 6: "CMYK"}
    names = [f"{wnid}/{wnid}_{i}.JPEG" for wnid in CLASSES for i in range(4)]
    return {name: jpeg(seed, modes.get(seed, "RGB")) for seed, name in enumerate(names)}


def validation_name(i: int) -> str:
    return f"ILSVRC2012_val_{i + 1:08}.JPEG"


@pytest.fixture
def root(tmp_path) -> Path:
    for name, content in training_files().items():
        path = tmp_path / "data" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for i, label in enumerate(VALIDATION):
        path = tmp_path / "data" / "val" / CLASSES[label] / validation_name(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(100 + i))
    return tmp_path / "data"


def load(root: Path, workers: int = 0) -> Dataset:
    return imagenet.load(str(root), workers)


def gathered(batches) -> tuple[list[int], torch.Tensor, list[int]]:
    """Sizes, pixels and labels of all minibatches."""
    parts = list(batches)
    return [len(part) for part in parts], torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts]).tolist()


def check(dataset: Dataset) -> None:
    assert (dataset.name, dataset.classes) == ("imagenet", CLASSES)
    assert len(dataset.train) == 12 and dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(dataset.test) == 5 and dataset.test.labels.tolist() == [0, 0, 1, 1, 2]
    assert [path.name for path in dataset.test.files] == [validation_name(i) for i in (1, 4, 0, 3, 2)]
    assert dataset.train.shape == (3, 224, 224)


# ------------------------------------------------------------------------------------------------------------------ files


def test_folders(root):
    check(load(root))


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def packed(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            add(archive, name, content)
    return buffer.getvalue()


@pytest.fixture
def archives(tmp_path, monkeypatch) -> Path:
    """A tar of tars for training, a flat one for validation, and the development kit with their numbers and names."""
    folder = tmp_path / "archives"
    folder.mkdir()
    training = training_files()
    by_class = {c: {name.split("/")[1]: jpg for name, jpg in training.items() if name.startswith(c)} for c in CLASSES}
    # Numbers are not in the order of WordNet's, and inner nodes of its tree come after the classes.
    numbers = {CLASSES[0]: 3, CLASSES[1]: 1, CLASSES[2]: 2}
    record = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(numbers[c], c, f"name of {c}, another", "gloss", 0) for c in CLASSES] + [(4, "n00000001", "animal", "gloss", 3)]
    mat = io.BytesIO()
    savemat(mat, {"synsets": np.array(rows, dtype=record)[:, None]})
    truth = "".join(f"{numbers[CLASSES[label]]}\n" for label in VALIDATION).encode()
    kit = {
        "ILSVRC2012_devkit_t12/data/meta.mat": mat.getvalue(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    contents = {
        "train": packed({f"{c}.tar": packed(files) for c, files in by_class.items()}),
        "val": packed({validation_name(i): jpeg(100 + i) for i in range(len(VALIDATION))}),
        "devkit": packed(kit, "w:gz"),
    }
    for kind, content in contents.items():
        name = originals.ARCHIVE_META[kind][0]
        (folder / name).write_bytes(content)
        monkeypatch.setitem(originals.ARCHIVE_META, kind, (name, hashlib.md5(content, usedforsecurity=False).hexdigest()))
    return folder


# On Python before 3.11.4, 3.12 and 3.13 alike, torchvision names a filter where there is one.
def test_archives_are_extracted_once_and_stay(archives):
    before = {path.name for path in archives.iterdir()}
    check(load(archives))
    assert {path.name for path in archives.iterdir()} == before | {"train", "val", ".imagenet.lock"}
    for name in before:
        (archives / name).unlink()
    check(load(archives))


@pytest.mark.parametrize("kind", ["train", "val", "devkit"])
@pytest.mark.parametrize("damage", ["absent", "changed"])
def test_without_whole_archives_it_says_what_to_put_where(archives, kind, damage):
    name, digest = originals.ARCHIVE_META[kind]
    if damage == "absent":
        (archives / name).unlink()
    else:
        (archives / name).write_bytes((archives / name).read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=rf"^dataset\.root={archives} has neither the folder .*{name} \(md5 {digest}\).*\.$"):
        load(archives)
    split = "train" if kind == "devkit" else kind
    assert not (archives / split).exists() and not (archives / ".imagenet.extracting").exists()


def test_an_interrupted_extraction_does_not_look_whole(archives, monkeypatch):
    original = originals.extract_archive

    def interrupt(from_path, *arguments, **options):
        if str(from_path).endswith(f"{CLASSES[1]}.tar"):
            raise KeyboardInterrupt
        return original(from_path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(originals, "extract_archive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(archives)
    assert not (archives / "train").exists()
    check(load(archives))


def test_different_classes_are_refused(root):
    (root / "val" / CLASSES[2]).rename(root / "val" / "n99999999")
    with pytest.raises(UserError, match=r"has different classes in train and val"):
        load(root)


def test_folders_as_people_have_them(root, tmp_path, capsys):
    """Hidden folders are no classes, links are followed, names need not be UTF-8, and what is passed over is said."""
    plain = load(root)
    (root / "train" / ".cache").mkdir()
    (root / "val" / CLASSES[0] / "notes.txt").touch()
    odd = os.fsdecode(b"\xff.JPEG")
    (root / "val" / CLASSES[0] / validation_name(1)).rename(root / "val" / CLASSES[0] / odd)
    (root / "train" / CLASSES[2]).rename(tmp_path / "elsewhere")
    (root / "train" / CLASSES[2]).symlink_to(tmp_path / "elsewhere")
    for workers in (0, 1):
        dataset = load(root, workers)
        assert capsys.readouterr().err == f"dataset.root={root}: files passed over in val: 1 .txt.\n"
        assert dataset.classes == CLASSES and dataset.train.labels.tolist() == plain.train.labels.tolist()
        assert torch.equal(gathered(dataset.train.batches(6))[1], gathered(plain.train.batches(6))[1])
        assert dataset.test.files[1].name == odd and len(dataset.test.fingerprint()) == 64
        assert len({dataset.test.fingerprint(), plain.train.fingerprint(), dataset.test.take(torch.arange(4)).fingerprint()}) == 3
        assert gathered(dataset.test.batches(2))[2] == dataset.test.labels.tolist()
    (root / "val" / CLASSES[0] / odd).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"/\\xff\.JPEG is not a readable image \("):
        list(dataset.test.batches(2))


def test_a_class_without_images_is_refused(root):
    for path in (root / "train" / CLASSES[1]).iterdir():
        path.unlink()
    with pytest.raises(UserError, match=rf"the class folder {root / 'train' / CLASSES[1]} has no image \("):
        load(root)


# ------------------------------------------------------------------------------------------------------------ minibatches


def test_evaluation_is_as_torchvision_prescribes(root):
    """Resized to 256 along the shorter side, the middle 224 cut out, as its pretrained weights want it."""
    images = load(root).test
    sizes, pixels, labels = gathered(images.batches(2))
    assert sizes == [2, 2, 1] and labels == images.labels.tolist()
    assert pixels.shape == (5, 3, 224, 224) and pixels.dtype == torch.uint8
    prescribed = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
    for path, image in zip(images.files, pixels, strict=True):
        assert torch.equal(image, prescribed(Image.open(path).convert("RGB")))


def test_training_is_a_function_of_seed_and_epoch(root):
    images = load(root).train
    torch.manual_seed(0)
    state = torch.get_rng_state()
    sizes, pixels, labels = gathered(images.training_batches(5, seed=0, epoch=3))
    assert torch.equal(torch.get_rng_state(), state), "and leaves the global generator alone"
    assert sizes == [5, 5, 2] and sorted(labels) == images.labels.tolist() and labels != images.labels.tolist()
    torch.manual_seed(1)
    again = gathered(images.training_batches(5, seed=0, epoch=3))
    assert torch.equal(again[1], pixels) and again[2] == labels
    for seed, epoch in ((1, 3), (0, 4)):
        assert not torch.equal(gathered(images.training_batches(5, seed, epoch))[1], pixels)


def test_training_images_are_as_torchvision_crops_them(root):
    """Of ordinary files: as Pillow opens them, with the random numbers of seed, epoch and file."""
    images = load(root).train
    crop = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    order = torch.randperm(12, generator=generator(4, "batches", 2))
    _, pixels, labels = gathered(images.training_batches(5, seed=4, epoch=2))
    assert labels == images.labels[order].tolist()
    for i, found in zip(order.tolist(), pixels, strict=True):
        with Image.open(images.files[i]) as image, global_generators(torch.device("cpu"), 4, "crops", 2, i):
            assert torch.equal(found, crop(image.convert("RGB")))


def test_training_resumes_at_a_minibatch(root):
    images = load(root).train
    _, pixels, labels = gathered(images.training_batches(5, 0, 0))
    sizes, rest, rest_labels = gathered(images.training_batches(5, 0, 0, start=1))
    assert sizes == [5, 2] and torch.equal(rest, pixels[5:]) and rest_labels == labels[5:]
    assert list(images.training_batches(5, 0, 0, start=3)) == []


@pytest.mark.parametrize("flipped", [False, True])
def test_training_images_are_parts_of_the_originals(tmp_path, flipped):
    """Red rises along the rows, green along the columns: a part has a smaller range of both, and is mirrored or not."""
    ramp = np.zeros((300, 300, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 300)[:, None]
    ramp[..., 1] = np.linspace(0, 255, 300)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    images = StreamedImages((tmp_path / "ramp.png",) * 40, torch.zeros(40).long(), workers=0)
    _, pixels, _ = gathered(images.training_batches(8, 0, 0))
    red, green = pixels[:, 0].float().mean(2), pixels[:, 1].float().mean(1)
    assert (red[:, -1] > red[:, 0]).all(), "never upside down"
    mirrored = green[:, -1] < green[:, 0]
    assert 8 < mirrored.sum() < 32
    chosen = mirrored == flipped
    heights = (red[chosen, -1] - red[chosen, 0]) / 255
    widths = (green[chosen, -1] - green[chosen, 0]).abs() / 255
    areas, ratios = heights * widths, widths / heights
    assert areas.min() < 0.4 and areas.max() > 0.6 and areas.min() > 0.05 and areas.max() <= 1
    assert ratios.min() > 0.7 and ratios.max() < 1.4


def test_workers_make_no_difference(root):
    one, two = load(root, workers=0), load(root, workers=2)
    for a, b in (
        (one.test.batches(2), two.test.batches(2)),
        (one.train.training_batches(5, 7, 1), two.train.training_batches(5, 7, 1)),
    ):
        first, second = gathered(a), gathered(b)
        assert first[0] == second[0] and torch.equal(first[1], second[1]) and first[2] == second[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_a_sentence(root, workers):
    dataset = load(root, workers)
    path = dataset.test.files[3]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError) as error:
        list(dataset.test.batches(2))
    message = str(error.value)
    assert message.startswith(f"{path} is not a readable image (") and message.endswith("): replace or remove it.")
    assert "\n" not in message


def test_it_can_be_split_and_moved_like_any_dataset(root):
    dataset = load(root)
    parts = dataset.split(validation=3, subset=4, test_subset=2, seed=0).to(torch.device("cpu"))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (4, 3, 2)
    assert not set(parts.train.files) & set(parts.validation.files)
    for images in (parts.train, parts.validation, parts.test):
        assert [CLASSES[label] for label in images.labels.tolist()] == [path.parent.name for path in images.files]
