"""Prediction files of a single model and of an ensemble, and metrics from them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from models import plain
from safetensors.torch import load_file
from torch import Tensor, nn

from late_phase import LatePhase, batchnorm, head
from late_phase.data.images import Images, Normalization
from late_phase.evaluation import predict, predictors
from late_phase.evaluation.metrics import accuracy, ece, nll
from late_phase.support.digests import tensor_digest

K = 3
NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))


def images(n: int, seed: int) -> Images:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=random)
    return Images(pixels, torch.randint(5, (n,), generator=random))


@pytest.fixture
def late() -> LatePhase:
    """Trained for four steps, so that members differ in weights and running statistics, and stopped within an iteration."""
    torch.manual_seed(0)
    model = plain()
    late = LatePhase(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batchnorm() + head(), K, sigma0=0.5)
    late.spawn(torch.Generator().manual_seed(1))
    for seed in range(4):
        batch = images(20, seed)
        F.cross_entropy(model(NORMALIZATION(batch.pixels)), batch.labels).backward()
        late.step()
        late.zero_grad()
    return late


def probabilities(model: nn.Module, pixels: Tensor) -> Tensor:
    """Of each image on its own, so that nothing can pass from one to another."""
    model = copy.deepcopy(model).eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (NORMALIZATION.mean, NORMALIZATION.std))
    with torch.no_grad():
        return torch.cat([model((image[None] / 255 - mean) / std).softmax(1) for image in pixels])


def member(late: LatePhase, k: int) -> nn.Module:
    """A plain copy of member k."""
    with late.member(k) as model:
        return copy.deepcopy(model)


@pytest.fixture
def splits() -> dict[str, Images]:
    return {"train": images(37, 10), "test": images(23, 11), "validation": images(9, 12)}


def members(late: LatePhase) -> dict[str, Tensor]:
    late.state_dict()  # brings the live member's values into late.members
    return late.members


def both(late: LatePhase) -> dict[str, predictors.Predictor]:
    return {"single": predictors.Single(late.average()), "ensemble": predictors.members(late.average(), members(late))}


def test_log_probabilities_of_a_model(monkeypatch):
    """More than one batch of images, the last one smaller."""
    model = plain()
    some = images(23, 0)
    monkeypatch.setattr(predict, "EVALUATION_BATCH_SIZE", 10)
    found = predict.log_probs(model.eval(), some, NORMALIZATION)
    assert found.shape == (23, 5) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found.exp(), probabilities(model, some.pixels), rtol=1e-4, atol=1e-6)


def test_files_have_labels_and_predictions_of_each_member(late, splits, tmp_path):
    predict.write_predictions(tmp_path / "predictions", splits, both(late), NORMALIZATION)
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "test.safetensors",
        "train.safetensors",
        "validation.safetensors",
    ]
    expected = {"single": [late.average()], "ensemble": [member(late, k) for k in range(K)]}
    for split, some in splits.items():
        tensors = load_file(tmp_path / "predictions" / f"{split}.safetensors")
        assert sorted(tensors) == ["ensemble", "labels", "single"]
        assert torch.equal(tensors["labels"], some.labels)
        for name, models in expected.items():
            log_probs = torch.stack([probabilities(model, some.pixels) for model in models]).log()
            if split == "train":
                log_probs = log_probs[:, range(len(some)), some.labels]
            assert tensors[name].dtype == torch.float32 and tensors[name].shape == log_probs.shape
            torch.testing.assert_close(tensors[name], log_probs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(log_probs[0], log_probs[1], atol=0.01), "members that differ"


def test_metrics_are_those_of_direct_computation(late, splits, tmp_path):
    predict.write_predictions(tmp_path, splits, both(late), NORMALIZATION)
    metrics = predict.read_metrics(tmp_path, splits, ["single", "ensemble"])
    assert list(metrics) == ["single", "ensemble"]
    models = {"single": [late.average()], "ensemble": [member(late, k) for k in range(K)]}
    for name, row in metrics.items():
        expected = {}
        for split, some in splits.items():
            log_probs = (sum(probabilities(model, some.pixels) for model in models[name]) / len(models[name])).log()
            label_log_probs = log_probs[range(len(some)), some.labels]
            if split == "train":
                expected["train_loss"] = nll(label_log_probs)
            else:
                expected[f"{split}_accuracy"] = accuracy(log_probs, some.labels)
                expected[f"{split}_nll"] = nll(label_log_probs)
                expected[f"{split}_ece"] = ece(log_probs, some.labels)
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_prediction_leaves_no_trace(late, splits, tmp_path):
    """Weights, running statistics and modes of the models that predict and of the live one, also where modes differ."""
    single = late.average()
    for model in (single, late.model):
        model.train()
        model[5].eval()
    tensors = members(late) | {f"{i}.{n}": v for i, m in enumerate((single, late.model)) for n, v in m.state_dict().items()}
    before = {name: value.clone() for name, value in tensors.items()}
    modes = [module.training for model in (single, late.model) for module in model.modules()]
    ways = {
        "single": predictors.Single(single),
        "live": predictors.Single(late.model),
        "ensemble": predictors.members(single, members(late)),
    }
    for folder in ("first", "second"):
        predict.write_predictions(tmp_path / folder, splits, ways, NORMALIZATION)
    assert all(torch.equal(before[name], value) for name, value in tensors.items())
    assert [module.training for model in (single, late.model) for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in single.parameters())
    for split in splits:
        first, second = ((tmp_path / folder / f"{split}.safetensors").read_bytes() for folder in ("first", "second"))
        assert first == second


def test_modes_return_after_an_error(late):
    late.model[5].eval()
    modes = [module.training for module in late.model.modules()]
    with pytest.raises(RuntimeError):
        too_small = Images(torch.zeros(4, 3, 7, 7, dtype=torch.uint8), torch.zeros(4).long())
        predict.predict(predictors.Single(late.model), {"test": too_small}, NORMALIZATION)
    assert [module.training for module in late.model.modules()] == modes


def test_predictions_of_the_same_content_are_kept(late, splits, tmp_path, monkeypatch):
    """That is the weights' ``content``, what predicts, pixels and labels; not names of files, or their dates."""
    ways = both(late)

    def written(content: str = "weights", **changed: Images) -> set[str]:
        before = {split: (tmp_path / f"{split}.safetensors").stat().st_ino for split in splits}
        predict.write_predictions(tmp_path, splits | changed, ways, NORMALIZATION, content=content)
        return {split for split in splits if (tmp_path / f"{split}.safetensors").stat().st_ino != before[split]}

    predict.write_predictions(tmp_path, splits, ways, NORMALIZATION, content="weights")
    assert written() == set()
    assert written(test=Images(splits["test"].pixels.clone(), splits["test"].labels.clone())) == set()
    pixels, labels = splits["test"].pixels.clone(), splits["test"].labels.clone()
    pixels[0, 0, 0, 0] ^= 1
    assert written(test=Images(pixels, splits["test"].labels)) == {"test"}
    labels[0] = (labels[0] + 1) % 5
    assert written(test=Images(splits["test"].pixels, labels)) == {"test"}
    assert written(content="other weights") == set(splits)
    ways = {"single": ways["single"]}
    assert written(content="other weights") == set(splits)
    (tmp_path / "train.safetensors").write_bytes(b"damaged")
    assert written(content="other weights") == {"train"}


def test_a_models_digest_is_that_of_its_weights_and_buffers():
    model = plain()
    first = tensor_digest(model.state_dict().values())
    assert tensor_digest(copy.deepcopy(model).state_dict().values()) == first
    model[1].running_mean[0] += 1
    assert tensor_digest(model.state_dict().values()) != first
