"""Detection metrics against scikit-learn, SciPy and torchmetrics, and the mean corruption error against plain means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from late_phase.data.corrupted import PAPERS_CORRUPTIONS as CORRUPTIONS
from late_phase.evaluation.corruption import corruption_errors
from late_phase.evaluation.metrics import entropy
from late_phase.evaluation.ood import ood_metrics, ood_scores


def scores(ties: str, inside: int = 300, outside: int = 170, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores that overlap, without ties, with some and with many of them."""
    random = torch.Generator().manual_seed(seed)
    found = [shift + torch.randn(n, generator=random, dtype=torch.float64) for n, shift in ((inside, 0.0), (outside, 1.0))]
    if ties != "none":
        found = [(x * {"some": 20, "many": 1}[ties]).round() for x in found]
    return found[0], found[1]


def both(inside: Tensor, outside: Tensor) -> tuple[np.ndarray, np.ndarray]:
    labels = torch.cat((torch.zeros(len(inside)), torch.ones(len(outside)))).long()
    return labels.numpy(), torch.cat((inside, outside)).numpy()


def fpr95(inside: Tensor, outside: Tensor) -> float:
    """The first threshold from above that 95 % of the OOD scores reach, tried one by one."""
    for threshold in sorted({*inside.tolist(), *outside.tolist()}, reverse=True):
        if 20 * sum(s >= threshold for s in outside.tolist()) >= 19 * len(outside):
            return sum(s >= threshold for s in inside.tolist()) / len(inside)
    raise AssertionError


CASES = {
    "no ties": scores("none"),
    "some ties": scores("some"),
    "many ties": scores("many"),
    "all ties": (torch.ones(7), torch.ones(5)),
    "one each": (torch.zeros(1), torch.ones(1)),
    "one each, the wrong way round": (torch.ones(1), torch.zeros(1)),
    "perfect": (torch.zeros(30), 1 + torch.rand(20, generator=torch.Generator().manual_seed(0))),
    "inverted": (torch.arange(10.0) + 50, torch.arange(20.0)),
    "infinite scores": (torch.tensor([0.0, 1, math.inf]), torch.tensor([1, math.inf, math.inf])),
    "OOD is rare": scores("some", 2000, 3),
    "OOD is nearly all": scores("many", 3, 2000),
    "exactly 95 %": (torch.arange(100.0), torch.arange(20.0) * 5),
}


@pytest.mark.parametrize("case", CASES)
def test_detection_metrics_are_those_of_the_libraries(case):
    inside, outside = CASES[case]
    found = ood_metrics(inside, outside)
    labels, together = both(inside, outside)
    finite = np.nan_to_num(together, posinf=1e6)  # the same order: scikit-learn takes no infinite scores
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, finite), abs=1e-12)
    assert found["auroc"] * len(inside) * len(outside) == pytest.approx(mannwhitneyu(outside, inside).statistic, abs=1e-6)
    assert found["aupr"] == pytest.approx(average_precision_score(labels, finite), abs=1e-12)
    fpr, tpr, _ = roc_curve(labels, finite, drop_intermediate=False)
    assert found["fpr95"] == fpr[tpr >= 0.95].min() == fpr95(inside, outside)


@pytest.mark.parametrize("ties", ["none", "some", "many"])
def test_detection_metrics_are_those_of_torchmetrics(ties):
    """From 0 to 1, as it would else take scores for logits; to the single precision that it computes in."""
    inside, outside = (scores.sigmoid() for scores in scores(ties))
    labels, together = map(torch.from_numpy, both(inside, outside))
    found = ood_metrics(inside, outside)
    assert found["auroc"] == pytest.approx(binary_auroc(together, labels).item(), abs=1e-5)
    assert found["aupr"] == pytest.approx(binary_average_precision(together, labels).item(), abs=1e-5)


def test_all_ties_are_chance():
    assert ood_metrics(torch.ones(7), torch.ones(5)) == {"auroc": 0.5, "aupr": pytest.approx(5 / 12), "fpr95": 1.0}


def test_the_order_of_examples_does_not_matter():
    inside, outside = scores("many")
    assert ood_metrics(inside, outside) == ood_metrics(inside.flip(0), outside.flip(0))


def test_an_area_of_many_pairs_is_exact():
    """4e12 pairs, half of a pair from chance."""
    inside, outside = torch.ones(2_000_000), torch.ones(2_000_000)
    outside[0] = 2
    assert ood_metrics(inside, outside)["auroc"] == 0.5 + 0.5 / 2_000_000


@pytest.mark.parametrize(("inside", "outside", "name"), [(0, 3, "no in-distribution"), (3, 0, "no out-of-distribution")])
def test_an_empty_set_is_refused(inside, outside, name):
    with pytest.raises(ValueError, match=f"there are {name} scores"):
        ood_metrics(torch.zeros(inside), torch.zeros(outside))


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="2 out-of-distribution scores are not a number"):
        ood_metrics(torch.zeros(3), torch.tensor([math.nan, 1.0, math.nan]))


def test_scores_are_the_entropy_of_the_mean_and_not_the_mean_entropy():
    """Two members that are certain of different classes."""
    members = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]).log()
    assert ood_scores(members).tolist() == pytest.approx([math.log(2), 0], abs=1e-7)
    random = torch.randn(4, 50, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(ood_scores(random), entropy(random.exp().mean(0).log()))
    assert ood_scores(random.float()).dtype == torch.float64


def test_confident_predictions_are_told_apart():
    """A constant within the logarithm would make these scores negative."""
    inside = torch.tensor([[[30.0, 0, 0], [33.0, 0, 0]]]).log_softmax(-1)
    outside = torch.tensor([[[25.0, 0, 0], [27.0, 0, 0]]]).log_softmax(-1)
    assert (ood_scores(inside) > 0).all()
    assert ood_metrics(ood_scores(inside), ood_scores(outside)) == {"auroc": 1, "aupr": 1, "fpr95": 0}


def errors(corruptions: tuple[str, ...] = CORRUPTIONS) -> dict[str, dict[int, float]]:
    random = torch.Generator().manual_seed(0)
    return {name: {s: torch.rand((), generator=random).item() for s in range(1, 6)} for name in corruptions}


def test_mean_corruption_error():
    found = corruption_errors(errors())
    every = np.array([[errors()[name][s] for s in range(1, 6)] for name in CORRUPTIONS])
    assert every.shape == (15, 5)
    assert found["mce"] == pytest.approx(every.mean(), rel=1e-14)
    assert {name: found[name] for name in CORRUPTIONS} == pytest.approx(dict(zip(CORRUPTIONS, every.mean(1), strict=True)))
    assert len(found) == 16
    backwards = {name: dict(reversed(row.items())) for name, row in reversed(errors().items())}
    assert corruption_errors(backwards) == found and list(corruption_errors(backwards)) == list(found)
    for error in (0.0, 1.0):
        assert set(corruption_errors({name: dict.fromkeys(range(1, 6), error) for name in CORRUPTIONS}).values()) == {error}


def test_other_corruptions_only_where_they_are_named():
    own = ("noise", "blur")
    found = corruption_errors(errors(own), own)
    assert list(found) == ["mce", "noise", "blur"] and found["mce"] == pytest.approx((found["noise"] + found["blur"]) / 2)
    with pytest.raises(ValueError, match=r"exactly 15 corruptions; missing: brightness, .*, zoom_blur; additional: blur, noise\."):
        corruption_errors(errors(own))
    with pytest.raises(ValueError, match=r"exactly 3 corruptions; missing: fog; additional: none\."):
        corruption_errors(errors(own), (*own, "fog"))


def test_corruptions_and_severities_must_be_complete():
    with pytest.raises(ValueError, match=r"missing: none; additional: spatter\."):
        corruption_errors(errors((*CORRUPTIONS, "spatter")))
    with pytest.raises(ValueError, match=r"missing: snow; additional: none\."):
        corruption_errors({name: row for name, row in errors().items() if name != "snow"})
    for severities, message in ((range(1, 5), "missing: 5; additional: none"), (range(6), "missing: none; additional: 0")):
        wrong = errors() | {"fog": dict.fromkeys(severities, 0.1)}
        with pytest.raises(ValueError, match=rf"exactly 5 severities of fog; {message}\."):
            corruption_errors(wrong)
    with pytest.raises(ValueError, match="exactly 15 corruptions"):
        corruption_errors({})


@pytest.mark.parametrize("error", [47.84, -0.1, math.nan])
def test_errors_are_shares(error):
    with pytest.raises(ValueError, match="the error for frost of severity 3"):
        corruption_errors(errors() | {"frost": {s: error if s == 3 else 0.5 for s in range(1, 6)}})
