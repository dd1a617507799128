"""Measured points, and which are refused before they are measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from late_phase.errors import UserError
from late_phase.nqp.measure import Measurement, measure, plan, settled, start
from late_phase.nqp.problem import paper_problem
from late_phase.nqp.settings import Settings

SMALL = {"n": 10, "target_norm": math.sqrt(10)}  # the stated regime in ten dimensions: still in balance


def measured(settings: Settings) -> Measurement:
    return measure(plan(settings))


def test_late_phase_falls_as_one_over_k_on_par_with_parameterised_models():
    losses = {K: measured(Settings(K=K, **SMALL)).loss for K in (1, 5, 50)}
    K = np.array(list(losses))
    slope = np.polyfit(np.log(K), np.log([loss.mean for loss in losses.values()]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.05)
    assert losses[5].mean == pytest.approx(measured(Settings(model="parameterised", K=5, **SMALL)).loss.mean, rel=0.1)


def test_the_closed_forms_hold_within_the_error_bars():
    for settings in [
        Settings(model="full", K=3, **SMALL),
        Settings(model="parameterised", K=3, **SMALL),
        Settings(K=20, **SMALL),
        Settings(K=4, d=3, eta=0.005, **SMALL, seeds=[1], repetitions=8),
    ]:
        m = measured(settings)
        assert m.loss.standard_error < 0.04 * m.theory, settings
        assert abs(m.loss.mean - m.theory) < 3 * m.loss.standard_error + 0.03 * m.theory, settings


def test_the_start_is_at_distance_one_for_every_seed_and_dimension():
    for d in (1, 3):
        s, problem = Settings(d=d, phi0=0.5, seeds=[3, 4]), paper_problem(100, 10.0)
        w, theta, e = start(problem, s)
        assert w.shape == (2, 2, 100) and theta.shape == (2, 2, 100, d) and np.linalg.norm(e) == pytest.approx(0.5)
        np.testing.assert_allclose(theta @ e, w, rtol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(w - problem.target, axis=-1), 1, rtol=1e-12)
        assert not np.allclose(w[0], w[1]) and np.linalg.matrix_rank(theta[0, 0]) == d
        np.testing.assert_allclose(settled(problem, theta[0, 0], e) @ e, problem.target, rtol=1e-12)


@pytest.mark.parametrize(("model", "limit"), [("full", 2.0), ("late_phase", 2 / 5.4)])
def test_an_unstable_learning_rate_is_refused_with_its_limit(model, limit):
    with pytest.raises(UserError, match=r"eta=5 is unstable, as the largest curvature is .*: choose one below") as error:
        measured(Settings(model=model, eta=5.0))
    assert float(str(error.value).split()[-1].rstrip(".")) == pytest.approx(limit, rel=0.1)


@pytest.mark.parametrize("eta", [1.0, 1.99])
def test_steps_that_overshoot_are_measured_for_as_long_as_they_need(eta):
    m = measured(Settings(model="full", n=1, K=2, eta=eta))  # at each step the error becomes 1 − η times what it was
    assert m.burn_in + m.window > (700 if eta > 1.9 else 10)
    assert abs(m.loss.mean - m.theory) < 3 * m.loss.standard_error
