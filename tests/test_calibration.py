"""Temperature scaling against minimization by SciPy and against distributions whose temperature is known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from late_phase.evaluation.calibration import calibration_metrics, fit_temperature, scale
from late_phase.evaluation.metrics import ece, label_log_probs, nll
from late_phase.support.seeding import generator


def predictions(n: int, temperature: float, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and labels that have the probabilities of these at this temperature."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=random, dtype=torch.float64)
    labels = (logits / temperature).softmax(1).multinomial(1, generator=random)[:, 0]
    return logits.log_softmax(1), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_temperature_has_the_least_loss(temperature, classes):
    log_probs, labels = predictions(500, temperature, classes)

    def loss(log_t: float) -> float:
        return F.cross_entropy(log_probs / math.exp(log_t), labels).item()

    found = fit_temperature(log_probs, labels)
    best = minimize_scalar(loss, bounds=(math.log(0.1), math.log(10)), method="bounded", options={"xatol": 1e-9})
    assert loss(math.log(found)) <= best.fun + 1e-14
    assert found == pytest.approx(math.exp(best.x), rel=1e-5)
    assert fit_temperature(log_probs.float(), labels) == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_labels_is_found(temperature):
    log_probs, labels = predictions(100_000, temperature)
    assert fit_temperature(log_probs, labels) == pytest.approx(temperature, rel=0.02)


def test_temperatures_undo_each_other():
    log_probs, labels = predictions(300, 1.5)
    assert fit_temperature(scale(log_probs, 2.0), labels) == pytest.approx(fit_temperature(log_probs, labels) / 2, rel=1e-6)
    torch.testing.assert_close(
        scale(log_probs, 2.0).exp(), (log_probs.exp() ** 0.5) / (log_probs.exp() ** 0.5).sum(1, keepdim=True)
    )
    torch.testing.assert_close(scale(log_probs, 1.0), log_probs, rtol=0, atol=1e-14)


def test_limits_of_the_temperature():
    log_probs, _ = predictions(50, 1.0)
    assert fit_temperature(log_probs, log_probs.argmax(1)) == 0.1, "all correct"
    assert fit_temperature(log_probs, log_probs.argmin(1)) == 10.0, "worse than chance"


def test_probabilities_of_zero():
    """Classes of probability 0 count for nothing, and neither do examples whose label is one."""
    log_probs, labels = predictions(300, 2.0)
    expected = fit_temperature(log_probs, labels)
    wider = torch.cat((log_probs, torch.full((300, 2), -math.inf)), 1)
    assert fit_temperature(wider, labels) == pytest.approx(expected, rel=1e-9)
    more = torch.cat((wider, wider[:9])), torch.cat((labels, torch.full((9,), 6)))
    assert fit_temperature(*more) == pytest.approx(expected, rel=1e-9)
    assert fit_temperature(wider, torch.full((300,), 6)) == 1.0
    found = calibration_metrics(*more)
    assert found["scaled_nll"] == found["nll"] == math.inf and 0 < found["scaled_ece"] < 1
    certain = torch.tensor([[0.0, -math.inf]]).expand(6, 2)
    found = calibration_metrics(certain, torch.zeros(6, dtype=torch.long))
    assert {name: found[name] for name in ("nll", "ece", "scaled_nll", "scaled_ece")} == dict.fromkeys(
        ("nll", "ece", "scaled_nll", "scaled_ece"), 0
    )


@pytest.mark.parametrize("n", [2, 401, 1000])
def test_every_example_is_scaled_by_the_temperature_of_the_other_half(n):
    log_probs, labels = predictions(n, 3.0)
    found = calibration_metrics(log_probs, labels, seed=4)
    order = torch.randperm(n, generator=generator(4, "calibration")).tolist()
    halves = order[: (n + 1) // 2], order[(n + 1) // 2 :]
    temperatures = [fit_temperature(log_probs[half], labels[half]) for half in halves]
    other = {example: temperatures[1 - k] for k, half in enumerate(halves) for example in half}
    scaled = torch.stack([(log_probs[i] / other[i]).log_softmax(0) for i in range(n)])
    assert found == {
        "temperature": pytest.approx(sum(temperatures) / 2),
        "nll": nll(label_log_probs(log_probs, labels)),
        "ece": ece(log_probs, labels),
        "scaled_nll": pytest.approx(F.cross_entropy(scaled, labels).item(), rel=1e-12),
        "scaled_ece": pytest.approx(ece(scaled, labels), rel=1e-12),
    }
    if n > 2:
        assert temperatures[0] != temperatures[1]


def test_scaling_mends_overconfidence():
    log_probs, labels = predictions(4000, 3.0)
    found = calibration_metrics(log_probs, labels)
    assert found["scaled_nll"] < found["nll"] - 0.3 and found["scaled_ece"] < 0.03 < 0.2 < found["ece"]


def test_the_halves_are_fixed_by_the_seed():
    log_probs, labels = predictions(200, 2.0)
    before = torch.get_rng_state()
    first, again, other = (calibration_metrics(log_probs, labels, seed) for seed in (0, 0, 1))
    assert first == again and first["scaled_nll"] != other["scaled_nll"] and first["nll"] == other["nll"]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [0, 1])
def test_there_must_be_an_example_in_either_half(n):
    with pytest.raises(ValueError, match=f"needs at least two examples, but got {n}"):
        calibration_metrics(torch.zeros(n, 3), torch.zeros(n, dtype=torch.long))
