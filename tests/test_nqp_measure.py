"""Measured points, and which are refused before they are measured."""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from late_phase.nqp.measure import Measurement, measure, plan, settled, start
from late_phase.nqp.problem import paper_problem
from late_phase.nqp.settings import MODELS, Settings
from late_phase.support.errors import UserError

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
    for s in [
        Settings(model="full", K=3, **SMALL),
        Settings(model="parameterised", K=3, **SMALL),
        Settings(K=20, **SMALL),
        Settings(K=4, d=3, eta=0.005, **SMALL, seeds=[1], repetitions=8),
    ]:
        m = measured(s)
        assert m.loss.standard_error < 0.04 * m.theory, s
        assert abs(m.loss.mean - m.theory) < 3 * m.loss.standard_error + 0.03 * m.theory, s


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


def test_a_run_that_would_become_unstable_on_its_way_is_refused_before_it():
    """η is small enough for the θ next to the start's, but θ and φ move on their way to w*, and φ drifts thereafter."""
    with pytest.raises(UserError, match=r"eta=0\.00293 is unstable, as the largest curvature is 9.*: choose one below 0\.0020"):
        plan(Settings(K=2, eta=0.00293, B=11, n=3, target_norm=4.95, phi0=0.1493, seeds=[0, 1], repetitions=1))
    plan(Settings(K=2, eta=0.002, B=11, n=3, target_norm=4.95, phi0=0.1493, seeds=[0, 1], repetitions=1))


def test_an_unstable_learning_rate_that_no_other_cures_is_one_of_phi():
    with pytest.raises(UserError, match=r"eta=0\.02 is unstable, .*: choose phi0 nearer to 1\."):
        plan(Settings(phi0=1e-20))


def test_runs_that_blow_up_are_no_measurement_also_where_they_end_before_they_overflow():
    s = Settings(model="parameterised", K=1, eta=0.06, B=17, n=1, d=2, target_norm=0.112, phi0=0.1, seeds=[2**63 - 1])
    with pytest.raises(UserError, match=r"eta=0\.06 makes the runs diverge after \d+ steps: choose a smaller one\."):
        measured(s)


def test_more_dimensions_of_the_embeddings_than_of_the_weights():
    """No gradient moves embeddings out of the rows of θ: their spread there is 0, not unknown."""
    m = measured(Settings(K=5, n=3, d=6, eta=0.02, target_norm=3**0.5, seeds=[0, 1, 2, 3], repetitions=10))
    assert abs(m.loss.mean - m.theory) < 4 * m.loss.standard_error + 0.1 * m.theory


@pytest.mark.parametrize("target_norm", [2.0, 2e4])
def test_noise_down_to_where_rounding_hides_it_is_measured_right(target_norm):
    """Of weights of 1 or 10⁴ by 2⁻⁵² each."""
    s = Settings(model="full", K=2, eta=0.1, n=4, target_norm=target_norm, seeds=[0, 1], repetitions=20)
    m = measured(Settings(**vars(s) | {"B": 10**16}))
    assert abs(m.loss.mean - m.theory) < 4 * m.loss.standard_error and m.theory < 1e-17
    if target_norm > 2:
        with pytest.raises(UserError, match=r"B=1000.* makes noise of 5e-11 in a step, which the rounding of weights of 1e\+04"):
            plan(Settings(**vars(s) | {"B": 10**18}))


def test_a_small_target_slows_down_as_phi_gets_small_with_it():
    """θφ falls from a distance of 1 to 0.05 by way of φ as well."""
    m = measured(Settings(K=3, n=2, target_norm=0.05, eta=0.1, B=5, seeds=[0, 1], repetitions=5, window=3))
    assert abs(m.loss.mean - m.theory) < 4 * m.loss.standard_error + 0.1 * m.theory and m.burn_in > 2000


def test_a_start_that_leaves_phi_far_below_where_it_was_is_given_time():
    """At w* the steps that keep ‖θ‖² − φ² have taken φ² from 0.16 to ‖w*‖²/‖θ‖², about 0.01."""
    planned = plan(Settings(K=3, n=2, target_norm=0.3, eta=0.05, B=5, phi0=0.4, seeds=[0, 1], repetitions=2))
    m = measure(planned)
    assert planned.window > 5000 and m.loss.mean == pytest.approx(m.theory, rel=0.2)


def test_one_record_has_no_error_bar():
    s = Settings(model="full", n=1, eta=0.1, seeds=[0], repetitions=1, window=1)
    with pytest.raises(UserError, match="window=1 gives one record, which has no error bar"):
        plan(s)
    assert measured(Settings(**vars(s) | {"repetitions": 2})).loss.standard_error > 0


EXTREMES = [-1.0, 0.0, math.nan, math.inf, -math.inf, 5e-324, 1e-300, 1e-30, 1e-16, 1e16, 1e30, 1e300, 1.7e308]
HUGE = [-1, 0, 10**5, 10**9, 2**63 - 1, 2**63, 10**24, 10**300]


def reals(low: float, high: float) -> st.SearchStrategy[float]:
    """Powers of ten within an everyday range more often than extremes."""
    everyday = st.floats(low, high).map(lambda power: 10**power)
    return st.one_of(everyday, everyday, everyday, st.sampled_from(EXTREMES))


def integers(high: int) -> st.SearchStrategy[int]:
    everyday = st.integers(1, high)
    return st.one_of(everyday, everyday, everyday, st.sampled_from(HUGE))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    s=st.builds(
        Settings,
        model=st.sampled_from(MODELS),
        K=integers(5),
        eta=reals(-3, 0.5),
        B=integers(50),
        n=integers(8),
        d=integers(3),
        target_norm=reals(-1, 1.5),
        phi0=reals(-1, 1),
        seeds=st.lists(st.one_of(st.integers(0, 5), st.sampled_from([-1, 2**63 - 1, 2**63])), max_size=3),
        repetitions=integers(2),
        tolerance=st.one_of(st.sampled_from([0.01, 0.1, 0.5]), reals(-30, 0)),
        window=st.one_of(st.sampled_from([1.0, 2.0, 6.0]), reals(0, 3)),
    )
)
@example(s=Settings(target_norm=1e308))
@example(s=Settings(phi0=1e300))
@example(s=Settings(eta=1e-300))
@example(s=Settings(B=10**24))
@example(s=Settings(tolerance=5e-324))
@example(s=Settings(n=1, d=2, eta=0.1, seeds=[0]))
@example(s=Settings(K=3, eta=1.47e-3, n=3, target_norm=2.8e-8, phi0=0.2, seeds=[0, 1], window=1.0))
def test_any_settings_are_measured_or_refused_in_one_sentence(s):
    """Nothing else: no other exception, no warning, nothing that isn't finite, and no time."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            planned = plan(s)
            if planned.seconds < 0.02:
                m = measure(planned)
                numbers = [m.loss.mean, m.loss.standard_error, m.loss.autocorrelation_time, m.theory]
                assert all(0 < number < math.inf for number in numbers) and math.isfinite(m.squared_phi or 1.0)
                assert "\n" not in m.line() and m.record()["settings"]["K"] == s.K
        except UserError as error:
            sentence = str(error)
            assert ": choose" in sentence and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 600
    assert time.process_time() - began < 2
