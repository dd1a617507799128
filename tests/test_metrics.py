"""Metrics against torchmetrics, scikit-learn and SciPy, and against sums done by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist
from scipy.special import rel_entr
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import brier_score_loss
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from late_phase.ensemble import ensemble_log_probs
from late_phase.evaluation.metrics import accuracy, brier, disagreement, ece, entropy, nll, pairwise_kl


def predictions(n: int = 2000, classes: int = 10, sharpness: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-probabilities in double precision and labels that mostly agree with them."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=random, dtype=torch.float64) * sharpness
    labels = (logits + 1.5 * torch.randn(n, classes, generator=random)).argmax(1)
    return logits.log_softmax(1), labels


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_accuracy_and_nll_are_those_of_torch(classes):
    log_probs, labels = predictions(classes=classes)
    expected = MulticlassAccuracy(classes, average="micro")(log_probs, labels).item()
    assert accuracy(log_probs, labels) == pytest.approx(expected, abs=1e-7)
    assert 0.2 < expected < 0.99
    label_log_probs = log_probs.gather(1, labels[:, None])[:, 0]
    assert nll(label_log_probs) == pytest.approx(F.cross_entropy(log_probs, labels).item(), rel=1e-13)


def test_accuracy_and_nll_by_hand():
    log_probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]]).log()
    labels = torch.tensor([0, 2, 0, 1])
    assert accuracy(log_probs, labels) == 0.5
    expected = -(math.log(0.5) + math.log(0.7) + math.log(0.3) + math.log(0.3)) / 4
    assert nll(log_probs.gather(1, labels[:, None])[:, 0]) == pytest.approx(expected, rel=1e-6)


def test_sums_of_many_examples_do_not_lose_digits():
    """In single precision the ten millionth of these would already be rounded."""
    assert nll(torch.full((1_000_001,), -0.1)) == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("sharpness", [0.3, 2.0, 8.0])
def test_calibration_error_is_that_of_torchmetrics(classes, sharpness):
    """To the single precision of its sums; none of these confidences is on an edge of a bin, where it takes the bin above."""
    log_probs, labels = predictions(classes=classes, sharpness=sharpness)
    metric = MulticlassCalibrationError(classes, n_bins=15, norm="l1")
    assert ece(log_probs, labels) == pytest.approx(metric(log_probs.exp(), labels).item(), abs=2e-6)


def test_calibration_error_of_single_precision_is_nearly_that_of_double():
    log_probs, labels = predictions()
    assert ece(log_probs.float(), labels) == pytest.approx(ece(log_probs, labels), abs=1e-6)


def test_confidences_are_not_rounded_to_single_precision():
    log_probs = torch.tensor([[-0.1, -3.0]]).expand(1000, 2)
    expected = 1 - math.exp(log_probs[0, 0].item())
    assert ece(log_probs, torch.zeros(1000, dtype=torch.long)) == pytest.approx(expected, rel=1e-12)


def two_classes(confidence: list[float]) -> Tensor:
    """Log-probabilities whose exponential is exactly the confidence in class 0."""
    values = []
    for goal in confidence:
        x = torch.tensor(goal, dtype=torch.float64).log()
        nearby = [x]
        for direction in (-math.inf, math.inf):
            y = x
            for _ in range(8):
                y = torch.nextafter(y, torch.tensor(direction, dtype=torch.float64))
                nearby.append(y)
        values.append(next(y for y in nearby if y.exp().item() == goal))
    chosen = torch.stack(values)
    return torch.stack((chosen, torch.full_like(chosen, -math.inf)), 1)


def test_calibration_error_by_hand():
    """Bins of width 1/15: two confidences in (0.6, 2/3], three in (0.8, 13/15], one in (14/15, 1]."""
    log_probs = two_classes([0.61, 0.65, 0.81, 0.83, 0.86, 0.97])
    labels = torch.tensor([0, 1, 0, 0, 1, 0])
    expected = (abs(1 - (0.61 + 0.65)) + abs(2 - (0.81 + 0.83 + 0.86)) + abs(1 - 0.97)) / 6
    assert ece(log_probs, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bins", [4, 8])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(bins):
    """3/4 is right and joins 5/8 and not 7/8, which are wrong; binary fractions, so that the edges are exact."""
    log_probs, labels = two_classes([0.625, 0.75, 0.875]), torch.tensor([1, 0, 1])
    sums = {4: [abs(1 - 0.625 - 0.75), 0.875], 8: [0.625, 0.25, 0.875]}[bins]
    assert ece(log_probs, labels, bins) == pytest.approx(sum(sums) / 3, rel=1e-12)
    joined = ece(two_classes([0.7, 0.75]), torch.tensor([1, 0]), 4)
    assert joined == pytest.approx(abs(1 - 0.7 - 0.75) / 2, rel=1e-12)


@pytest.mark.parametrize("edge", range(1, 15))
def test_all_inner_edges_of_fifteen_bins(edge):
    """With one just below and one just above the edge: cancelled within the same bin, added across bins."""
    confidence = torch.linspace(0, 1, 16, dtype=torch.float64)[edge].item()
    on_edge = two_classes([confidence])
    below, above = on_edge - 1e-6, on_edge + 1e-6
    labels = torch.tensor([0, 1])  # right, wrong
    same = ece(torch.cat((on_edge, below)), labels)
    assert same == pytest.approx(abs(1 - 2 * confidence) / 2, abs=1e-5)
    assert ece(torch.cat((on_edge, above)), labels) == pytest.approx((1 - confidence + confidence) / 2, abs=1e-5)


def test_certainty():
    """Confidence 1 is in the last bin, and confidence 0, of no class at all, in the first one."""
    certain = two_classes([1.0, 1.0, 1.0, 1.0])
    assert ece(certain, torch.tensor([0, 0, 0, 0])) == 0
    assert ece(certain, torch.tensor([0, 0, 1, 0])) == 0.25
    assert ece(certain, torch.tensor([1, 1, 1, 1])) == 1
    assert ece(torch.full((2, 3), -math.inf), torch.tensor([1, 2])) == 0
    assert nll(certain[:, 0]) == 0


def test_the_ensemble_is_the_mean_of_probabilities():
    members = torch.stack([predictions(200, seed=seed)[0] for seed in range(5)])
    torch.testing.assert_close(ensemble_log_probs(members), (sum(m.exp() for m in members) / 5).log(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ensemble_log_probs(members).exp().sum(1), torch.ones(200, dtype=torch.float64))


def test_an_ensemble_of_one_is_its_member():
    members = predictions(50)[0].float()[None]
    assert torch.equal(ensemble_log_probs(members), members[0])


def test_improbable_labels_do_not_vanish_in_the_ensemble():
    """Probabilities of exp(-200) and exp(-300), which single precision hasn't."""
    assert ensemble_log_probs(torch.tensor([-200.0, -300.0])).item() == pytest.approx(-200 - math.log(2), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("sharpness", [0.3, 8.0])
def test_brier_score_is_that_of_scikit_learn(classes, sharpness):
    log_probs, labels = predictions(classes=classes, sharpness=sharpness)
    probs = log_probs.exp()
    expected = brier_score_loss(labels, (probs / probs.sum(1, keepdim=True)).numpy(), labels=range(classes), scale_by_half=False)
    assert brier(log_probs, labels) == pytest.approx(expected, rel=1e-12)


def test_brier_score_of_certainty():
    certain = torch.tensor([[0.0, -math.inf, -math.inf]]).expand(4, 3)
    assert brier(certain, torch.zeros(4, dtype=torch.long)) == 0
    assert brier(certain, torch.tensor([1, 2, 1, 2])) == 2
    assert brier(certain, torch.tensor([0, 0, 0, 1])) == 0.5


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("sharpness", [0.0, 0.3, 8.0, 1000.0])
def test_entropy_is_that_of_scipy(classes, sharpness):
    log_probs, _ = predictions(classes=classes, sharpness=sharpness)
    expected = torch.from_numpy(scipy_entropy(log_probs.exp().numpy(), axis=1))
    torch.testing.assert_close(entropy(log_probs), expected, rtol=1e-9, atol=1e-15)


def test_entropy_of_certainty_and_of_ignorance():
    assert entropy(torch.tensor([0.0, -math.inf, -math.inf])).item() == 0
    assert entropy(torch.tensor([0.5, 0.5, 0.0]).log()).item() == pytest.approx(math.log(2), rel=1e-7)
    assert entropy(torch.full((2, 7), -math.log(7))).tolist() == pytest.approx([math.log(7)] * 2, rel=1e-7)
    assert entropy(torch.tensor([[0.0]])).item() == 0, "of one class only"


def test_entropy_of_single_precision_is_that_of_double_for_confident_predictions():
    """The likeliest class' probability is 1 - 2e-9, whose log is 0 in single precision and gives 4 % of the entropy."""
    logits = torch.tensor([[21.0, 0.0, 0.0, -1.0], [30.0, 0.0, 3.0, -5.0]], dtype=torch.float64)
    log_probs, single = logits.log_softmax(1), logits.float().log_softmax(1)
    assert single[:, 0].tolist() == [0, 0] and (log_probs[:, 0] < 0).all()
    torch.testing.assert_close(entropy(single), entropy(log_probs), rtol=1e-6, atol=0)
    truth = torch.from_numpy(scipy_entropy(log_probs.exp().numpy(), axis=1))
    torch.testing.assert_close(entropy(log_probs), truth, rtol=1e-5, atol=0)


def members(n: int = 4, examples: int = 300, classes: int = 7) -> Tensor:
    return torch.stack([predictions(examples, classes, seed=seed)[0] for seed in range(n)])


@pytest.mark.parametrize("n", [2, 5])
def test_disagreement_is_the_mean_hamming_distance_of_scipy(n):
    expected = pdist(members(n).argmax(-1).numpy(), "hamming").mean()
    assert disagreement(members(n)) == pytest.approx(expected, rel=1e-12)
    assert 0.5 < expected < 1


def test_disagreement_by_hand():
    """Three members, of which on the first example all agree, on the second two, on the third none."""
    predicted = torch.tensor([[0, 1, 2], [0, 1, 0], [0, 2, 1]])
    assert disagreement(F.one_hot(predicted, 3).double().log()) == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert disagreement(members(1).expand(3, -1, -1)) == 0


@pytest.mark.parametrize("n", [2, 5])
def test_divergence_of_members_is_that_of_scipy(n):
    probs = members(n).exp().numpy()
    pairs = [rel_entr(probs[i], probs[j]).sum(1).mean() for i in range(n) for j in range(n) if i != j]
    assert pairwise_kl(members(n)) == pytest.approx(sum(pairs) / len(pairs), rel=1e-10)
    assert pairwise_kl(members(n).float()) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_divergence_where_probabilities_are_zero():
    """Two members without the third class, one of which is certain, and one that has it."""
    half, certain = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([1.0, 0.0, 0.0]).log()
    assert pairwise_kl(torch.stack((certain, certain))[:, None]) == 0
    assert pairwise_kl(torch.stack((half, certain))[:, None]) == math.inf
    third = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]).log()[:, None]
    expected = (0.5 * math.log(2) + 0.5 * math.log(2 / 3) + 0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    assert pairwise_kl(third) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", [accuracy, ece, brier])
def test_metrics_of_no_examples_are_refused(metric):
    with pytest.raises(ValueError, match="no examples"):
        metric(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="no examples"):
        nll(torch.zeros(0))


@pytest.mark.parametrize("diversity", [disagreement, pairwise_kl])
def test_diversity_of_no_pair_is_refused(diversity):
    with pytest.raises(ValueError, match="the number of members is 1"):
        diversity(members(1))
    with pytest.raises(ValueError, match="no examples"):
        diversity(torch.zeros(2, 0, 5))
    assert diversity(torch.zeros(2, 3, 1)) == 0, "of one class only"
