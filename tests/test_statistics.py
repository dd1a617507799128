"""What few seeds can tell, compared to SciPy's tests and to simulations."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from late_phase.reporting.statistics import (
    MOST_SEEDS,
    Difference,
    Summary,
    compare,
    compare_with_published,
    mean_and_std,
    seeds_needed,
    verdict,
)
from late_phase.support.errors import UserError

OURS = np.array([0.8287, 0.8301, 0.8263, 0.8279, 0.8310])
OTHER = np.array([0.8135, 0.8151, 0.8119, 0.8140, 0.8128])


def by_seed(values, first: int = 0) -> dict[int, float]:
    return dict(enumerate(values, first))


def drawn(n: int, seed: int, std: float = 1.0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng([n, seed]).normal(mean, std, n)


def check(found: Difference, expected, mean: float) -> None:
    """Against a result of SciPy's."""
    assert found.mean == pytest.approx(mean, rel=1e-12, abs=1e-15)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)


def test_summary():
    found = Summary.of([1, 2, 4, 8])
    assert (found.n, found.mean) == (4, 3.75) and found.std == pytest.approx(np.std([1, 2, 4, 8], ddof=1))
    assert found.text(2) == mean_and_std([1, 2, 4, 8], 2) == "3.75 ± 3.10"
    assert Summary.of([0.1] * 3) == Summary(3, 0.1, 0.0)
    with pytest.raises(ValueError):
        Summary.of([])


def test_summary_of_one_value():
    assert Summary.of([0.5]) == Summary(1, 0.5, None)
    assert Summary.of([0.5]).text(1) == "0.5"


def test_what_rounds_to_zero_has_no_sign():
    assert Summary.of([-1e-9, 1e-10]).text(2) == "0.00 ± 0.00"
    assert Summary.of([-0.0]).text(1) == "0.0"


@pytest.mark.parametrize(("values", "text"), [([math.nan, 1.0], "nan ± nan"), ([math.inf, 1.0], "inf ± nan"), ([math.nan], "nan")])
def test_a_run_that_diverged_shows_in_its_summary(values, text):
    assert mean_and_std(values, 2) == text


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_the_same_seeds_are_paired(n, shift):
    a, b = drawn(n, 1, mean=shift), drawn(n, 2)
    found = compare(by_seed(a), dict(reversed(by_seed(b).items())))
    check(found, stats.ttest_rel(a, b), (a - b).mean())
    assert found.paired and found.n == (n, n)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 7), (5, 3), (40, 4)])
@pytest.mark.parametrize("std", [1e-3, 1.0, 20.0])
def test_other_seeds_are_not_paired(n, m, std):
    a, b = drawn(n, 1), drawn(m, 2, std)
    expected = stats.ttest_ind(a, b, equal_var=False)
    for first in (n - 1, 100):  # one common seed, and none
        found = compare(by_seed(a), by_seed(b, first))
        check(found, expected, a.mean() - b.mean())
        assert not found.paired and found.n == (n, m)


def test_swapped_sides_differ_in_the_sign():
    for first in (0, 9):
        there, back = compare(by_seed(OURS), by_seed(OTHER, first)), compare(by_seed(OTHER, first), by_seed(OURS))
        assert there.mean == -back.mean and there.p == pytest.approx(back.p, rel=1e-12)
        assert there.interval == pytest.approx(tuple(-end for end in reversed(back.interval)), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (5, 1)])
def test_one_value_is_no_test(n, m):
    found = compare(by_seed(OURS[:n]), by_seed(OTHER[:m]))
    assert found == Difference(pytest.approx(OURS[:n].mean() - OTHER[:m].mean()), None, None, (n, m), False)
    assert verdict(found, True) == "no test with n = 1"


def test_seeds_in_common_are_paired_and_others_left_out():
    ours, other = by_seed(OURS), by_seed(OTHER, 2)
    common = [seed for seed in ours if seed in other]
    found = compare(ours, other)
    expected = stats.ttest_rel([ours[seed] for seed in common], [other[seed] for seed in common])
    check(found, expected, np.mean([ours[seed] - other[seed] for seed in common]))
    assert found.paired and found.n == (len(common), len(common)) and 2 <= len(common) < len(OURS)


def test_equal_differences_tell_nothing_of_the_noise():
    """Accuracies come in steps, so pairs may well be equally far apart. Without a warning, which would be an error here."""
    a, b = {0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5}
    assert compare(a, b) == Difference(0.25, None, None, (2, 2), True)
    assert compare(a, a) == Difference(0.0, None, 1.0, (2, 2), True)
    assert verdict(compare(a, b), False) == "no test, as the spread over seeds is 0 or not known"
    assert verdict(compare(a, a), True) == "within noise (p = 1)"
    steps = compare({seed: (350 + seed) / 360 for seed in range(5)}, {seed: (349 + seed) / 360 for seed in range(5)})
    assert steps.p is None, "equal but for rounding"


def test_equal_values_tell_nothing_of_the_noise():
    a, b = {0: 0.1, 1: 0.1, 2: 0.1}, {5: 0.1, 6: 0.1}
    assert compare(a, b) == Difference(0.0, None, 1.0, (3, 2), False)
    assert compare_with_published([0.5, 0.5], 0.25, 0.0, 3) == Difference(0.25, None, None, (2, 3), False)


def test_equal_values_on_one_side():
    """Then the other's mean is compared to a number."""
    found = compare(by_seed(OURS), {7: 0.82, 8: 0.82})
    expected = stats.ttest_1samp(OURS, 0.82)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    ends = (end - 0.82 for end in expected.confidence_interval(0.95))  # SciPy's is of the mean itself
    assert found.interval == pytest.approx(tuple(ends), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-180, 1e-9, 1e9, 1e150])
def test_the_unit_does_not_matter(scale):
    for first in (0, 9):
        plain = compare(by_seed(OURS), by_seed(OTHER, first))
        scaled = compare(by_seed(OURS * scale), by_seed(OTHER * scale, first))
        assert scaled.p == pytest.approx(plain.p, rel=1e-6)
        assert scaled.interval == pytest.approx(tuple(scale * end for end in plain.interval), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value):
    for sides in (({0: 0.5, 3: value}, {0: 0.5, 3: 0.6}), ({0: 0.5}, {3: value})):
        with pytest.raises(UserError, match=f"the value of seed 3 is {value}, which can't be compared: leave it out"):
            compare(*sides)
    with pytest.raises(UserError, match=f"value 2 is {value}"):
        compare_with_published([0.5, value], 0.5, 0.1, 3)
    with pytest.raises(UserError, match=f"the published mean is {value}"):
        compare_with_published([0.5, 0.6], value, None, 3)
    with pytest.raises(UserError, match=f"the published standard deviation is {value}"):
        compare_with_published([0.5, 0.6], 0.5, value, 3)


def test_sides_without_values_are_refused():
    for sides in (({}, {}), ({}, {0: 1.0}), ({0: 1.0}, {})):
        with pytest.raises(ValueError):
            compare(*sides)


@pytest.mark.parametrize(("mean", "std", "n"), [(0.8135, 0.0016, 5), (0.8287, 0.0022, 5), (0.82, 0.0009, 3), (0.82, 0.05, 2)])
def test_published_numbers(mean, std, n):
    found = compare_with_published(OURS, mean, std, n)
    expected = stats.ttest_ind_from_stats(OURS.mean(), OURS.std(ddof=1), len(OURS), mean, std, n, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9) and found.n == (5, n) and not found.paired
    values = np.arange(n, dtype=float)
    values = mean + std * (values - values.mean()) / values.std(ddof=1)  # of this mean and standard deviation
    check(found, stats.ttest_ind(OURS, values, equal_var=False), OURS.mean() - mean)


def test_published_numbers_that_allow_no_test():
    assert compare_with_published([0.5, 0.75], 0.5, None, 5) == Difference(0.125, None, None, (2, 5), False)
    assert verdict(compare_with_published([0.5, 0.75], 0.5, None, 5), True) == "no test, as the spread over seeds is 0 or not known"
    for difference in (compare_with_published([0.5, 0.75], 0.5, None, 1), compare_with_published([0.5], 0.5, 0.1, 5)):
        assert difference.p is None and verdict(difference, True) == "no test with n = 1"


@pytest.mark.parametrize(("std", "n"), [(-0.1, 5), (0.1, 0)])
def test_published_numbers_that_cannot_be(std, n):
    with pytest.raises(ValueError, match=f"n={n} and std={std} can't describe"):
        compare_with_published([0.5, 0.6], 0.5, std, n)


STATED = {0.0: "p < 0.001", 0.00099: "p < 0.001", 0.001: "p = 0.001", 0.0123: "p = 0.012", 0.34: "p = 0.34", 1.0: "p = 1"}
CLOSE = {0.0496: "p = 0.0496", 0.049996: "p = 0.049996", 0.05: "p = 0.05", 0.0504: "p = 0.05"}
"""As many digits as it takes to be below 0.05 where p is."""


@pytest.mark.parametrize(("p", "stated"), (STATED | CLOSE).items())
@pytest.mark.parametrize("mean", [0.5, -0.5])
@pytest.mark.parametrize("more_is_better", [True, False])
def test_verdict(p, stated, mean, more_is_better):
    word = "within noise" if p >= 0.05 else "better" if (mean > 0) == more_is_better else "worse"
    assert verdict(Difference(mean, (0.0, 0.0), p, (3, 3), True), more_is_better) == f"{word} ({stated})"


@pytest.mark.parametrize(
    ("n", "difference", "std"), [(2, 6.0, 1.0), (2, 7.0, 0.2), (3, 2.6, 1.0), (4, 2.0, 0.5), (6, 1.4, 0.1), (17, 1, 1)]
)
def test_the_power_is_that_of_a_simulation(n, difference, std):
    """Within four standard errors of it, which tells Welch's test from Student's for few seeds."""
    random, runs = np.random.default_rng(n), 200_000
    a, b = random.normal(difference, 1.0, (n, runs)), random.normal(0.0, std, (n, runs))
    power = (stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05).mean()
    error = 4 * math.sqrt(power * (1 - power) / runs)
    assert seeds_needed(difference, 1.0, std, power - error) <= n < seeds_needed(difference, 1.0, std, power + error)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.99])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.4])
@pytest.mark.parametrize("difference", [0.1, 0.7, 2.0, 50.0])
def test_the_power_where_one_side_does_not_vary(difference, level, power):
    """Then Welch's t is noncentral t of n − 1 degrees of freedom."""

    def power_of(n: int) -> float:
        critical, shift = stats.t.isf(level / 2, n - 1), difference * math.sqrt(n)
        return stats.nct.sf(critical, n - 1, shift) + stats.nct.sf(critical, n - 1, -shift)

    expected = next(n for n in range(2, MOST_SEEDS) if power_of(n) >= power)
    for stds in ((1.0, 0.0), (0.0, 1.0)):
        assert seeds_needed(difference, *stds, power, level) == expected
        assert seeds_needed(-difference * 1e-3, *(1e-3 * std for std in stds), power, level) == expected


@pytest.mark.parametrize("difference", [0.1, 0.25, 0.5, 1.0])
def test_many_seeds_are_as_many_as_by_student(difference):
    """By the usual formula for equal variances, whose test Welch's comes to."""

    def power_of(n: int) -> float:
        return stats.nct.sf(stats.t.isf(0.025, 2 * n - 2), 2 * n - 2, difference * math.sqrt(n / 2))

    assert seeds_needed(difference, 1.0, 1.0) == next(n for n in range(2, MOST_SEEDS) if power_of(n) >= 0.8)


def test_limits_of_the_seeds_needed():
    assert seeds_needed(0.0, 1.0, 1.0) is seeds_needed(0.0, 0.0, 0.0) is None
    assert seeds_needed(1.0, 0.0, 0.0) == seeds_needed(1e9, 1.0, 1.0) == 2
    assert seeds_needed(1e-9, 1.0, 1.0) == seeds_needed(0.03, 1.0, 1.0) == MOST_SEEDS == 10_000
    assert 9000 < seeds_needed(0.041, 1.0, 1.0) < MOST_SEEDS


@pytest.mark.parametrize("change", [{"difference": math.nan}, {"std_one": -1.0}, {"std_other": math.inf}, {"std_one": math.nan}])
def test_seeds_needed_refuses_numbers_that_cannot_be(change):
    with pytest.raises(ValueError, match="choose finite numbers"):
        seeds_needed(**{"difference": 1.0, "std_one": 1.0, "std_other": 1.0} | change)


@pytest.mark.parametrize("change", [{"power": 0.4}, {"power": 1.0}, {"level": 0.0}, {"level": 0.5}, {"power": math.nan}])
def test_seeds_needed_refuses_a_power_and_a_level_out_of_range(change):
    with pytest.raises(ValueError, match="choose a level above 0"):
        seeds_needed(1.0, 1.0, 1.0, **change)


def test_a_table_waits_for_no_scipy():
    code = "import sys; from late_phase.reporting.runs import mean_and_std as f; f([1, 2], 1); assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
