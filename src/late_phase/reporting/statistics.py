"""Statistics over a few seeds: means, tests, confidence intervals, and the number of seeds that a difference needs.

Everything here assumes that seeds are independent and that values over seeds are normal.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from late_phase.support.errors import UserError

LEVEL = 0.05
"""A difference counts if p is below this level. Confidence intervals have the level 1 − LEVEL."""

MOST_SEEDS = 10_000
"""``seeds_needed`` stops here."""


@dataclass(frozen=True)
class Summary:
    """Number of values, their mean, and their sample standard deviation (divided by n − 1), None if it is unknown."""

    n: int
    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarizes values in their unit. One value has no standard deviation; values that are not all finite have nan.

        Raises:
            ValueError: there are no values.
        """
        finite = all(map(math.isfinite, values))
        std = None if len(values) == 1 else float(statistics.stdev(values)) if finite else math.nan
        return cls(len(values), float(statistics.mean(values)), std)

    def text(self, digits: int) -> str:
        """Returns mean ± standard deviation with ``digits`` digits after the point. Zero has no sign, even after rounding."""
        return f"{self.mean:z.{digits}f}" + ("" if self.std is None else f" ± {self.std:z.{digits}f}")


def mean_and_std(values: Sequence[float], digits: int) -> str:
    return Summary.of(values).text(digits)


@dataclass(frozen=True)
class Difference:
    """Mean difference, ours − other, and its 95 % confidence interval, both in the values' unit; p of the two-sided test.

    Interval and p are None if a side has one value or an unknown spread. Without any spread the interval is None, and p is 1
    if the difference is 0, else None. ``n`` has the numbers of values, first ours, then the other's. ``paired`` says whether
    values of the same seed were compared.
    """

    mean: float
    interval: tuple[float, float] | None
    p: float | None
    n: tuple[int, int]
    paired: bool


def compare(ours: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Compares two methods by their values, seed -> value.

    If the sides share at least two seeds, it uses Student's t test of the differences of these seeds, else Welch's test.

    Raises:
        UserError: a value is not finite.
        ValueError: a side has no values.
    """
    for side in (ours, other):
        _check_finite({f"the value of seed {seed}": value for seed, value in side.items()})
    common = [seed for seed in ours if seed in other]
    if len(common) < 2:
        return _welch(Summary.of(list(ours.values())), Summary.of(list(other.values())))
    differences = Summary.of([ours[seed] - other[seed] for seed in common])
    rounding = 1e-12 * max(abs(side[seed]) for side in (ours, other) for seed in common)
    error = 0.0 if differences.std < rounding else differences.std / math.sqrt(differences.n)
    return _by_t(differences.mean, error, differences.n - 1, (differences.n, differences.n), paired=True)


def compare_with_published(values: Sequence[float], mean: float, std: float | None, n: int) -> Difference:
    """Compares values over seeds with a paper's mean of n values by Welch's test.

    Args:
        std: the paper's sample standard deviation; None if it is unknown.

    Raises:
        UserError: a number is not finite.
        ValueError: there are no values, or ``n`` or ``std`` is out of range.
    """
    published = {"the published mean": mean, "the published standard deviation": std or 0.0}
    _check_finite({f"value {i}": value for i, value in enumerate(values, 1)} | published)
    if n < 1 or (std is not None and std < 0):
        raise ValueError(f"n={n} and std={std} can't describe published values: choose n of at least 1 and std of at least 0.")
    return _welch(Summary.of(values), Summary(n, mean, std))


def _check_finite(values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(f"{name} is {value}, which can't be compared: leave it out.")


def _welch(ours: Summary, other: Summary) -> Difference:
    """Does Welch's t test, with Welch and Satterthwaite's degrees of freedom."""
    mean, n = ours.mean - other.mean, (ours.n, other.n)
    if min(n) < 2 or ours.std is None or other.std is None:
        return Difference(mean, None, None, n, paired=False)
    own, others = ours.std / math.sqrt(ours.n), other.std / math.sqrt(other.n)
    error = math.hypot(own, others)
    share = (own / error) ** 2 if error else 0.0  # of the variance; if that is 0, the degrees of freedom don't matter
    return _by_t(mean, error, 1 / (share**2 / (ours.n - 1) + (1 - share) ** 2 / (other.n - 1)), n, paired=False)


def _by_t(mean: float, error: float, freedom: float, n: tuple[int, int], paired: bool) -> Difference:
    """Tests a mean with this standard error and these degrees of freedom by Student's t.

    Values that are all the same tell nothing about the noise: accuracies come in steps, and a few seeds may hit the same step.
    """
    from scipy.stats import t  # slow to import

    if not error:
        return Difference(mean, None, 1.0 if mean == 0 else None, n, paired)
    p = 2 * float(t.sf(abs(mean) / error, freedom))
    half = float(t.isf(LEVEL / 2, freedom)) * error
    return Difference(mean, (mean - half, mean + half), p, n, paired)


def outcome(difference: Difference, more_is_better: bool) -> str:
    """Returns ``better``, ``worse``, ``within noise``, or ``no test``."""
    if difference.p is None:
        return "no test"
    if difference.p >= LEVEL:
        return "within noise"
    return "better" if (difference.mean > 0) == more_is_better else "worse"


def verdict(difference: Difference, more_is_better: bool) -> str:
    """Returns the outcome with p, or with the reason why there is no p."""
    p, said = difference.p, outcome(difference, more_is_better)
    if p is None:
        return f"{said} with n = 1" if min(difference.n) == 1 else f"{said}, as the spread over seeds is 0 or not known"
    return f"{said} ({p_in_words(p)})"


def p_in_words(p: float | None) -> str:
    """Returns p with at least two digits, and as many as show on which side of the level it is."""
    if p is None:
        return "no p"
    digits = next(digits for digits in range(2, 18) if (float(f"{p:.{digits}g}") < LEVEL) == (p < LEVEL))
    return f"p = {p:.{digits}g}" if p >= 0.001 else "p < 0.001"


def seeds_needed(difference: float, std_one: float, std_other: float, power: float = 0.8, level: float = LEVEL) -> int | None:
    """Returns the least number of seeds on each side with which Welch's two-sided test finds a true difference with this power.

    The power is exact for normal values. Let m = n − 1, let the sample variances s² be σ² χ²_m / m, and let B be the share of
    the first χ² in the sum of both. B has the distribution Beta(m/2, m/2) and is independent of the sum, which is χ² with 2m
    degrees of freedom. B determines Welch's degrees of freedom, and so the critical value c. Given B, Welch's t is a noncentral
    t with 2m degrees of freedom, times √((σ1² + σ2²) / 2(B σ1² + (1 − B) σ2²)).

    Args:
        difference: true difference of the means, in the unit of the standard deviations; its sign doesn't matter.
        std_one: standard deviation over seeds of one side.
        std_other: standard deviation over seeds of the other side.
        power: the probability of p < ``level``, at least 0.5. A smaller power may not grow with n.
        level: the level of the test.

    Returns:
        At least 2; at most ``MOST_SEEDS``, which stands for this number or more; None if the difference is 0, which no number
        of seeds finds.

    Raises:
        ValueError: a number is not finite or out of range.
    """
    from scipy.special import roots_gegenbauer
    from scipy.stats import nct, t

    total = math.hypot(std_one, std_other)
    if not (math.isfinite(difference) and math.isfinite(total) and min(std_one, std_other) >= 0):
        raise ValueError(f"{difference=}, {std_one=}, {std_other=}: choose finite numbers, standard deviations of at least 0.")
    if not 0 < level < 0.5 <= power < 1:
        raise ValueError(f"{power=}, {level=}: choose a level above 0, a power below 1, and 0.5 between them.")
    if difference == 0:
        return None
    if total == 0:
        return 2
    one, other = (std_one / total) ** 2, (std_other / total) ** 2

    def power_of(n: int) -> float:
        nodes, weights = roots_gegenbauer(32, n / 2 - 1)  # Gaussian quadrature over Beta(m/2, m/2)
        share = (1 + nodes) / 2
        variance = share * one + (1 - share) * other
        freedom = (n - 1) * variance**2 / ((share * one) ** 2 + ((1 - share) * other) ** 2)
        critical = t.isf(level / 2, freedom) * (2 * variance) ** 0.5
        shift = abs(difference) / total * math.sqrt(n)
        found = nct.sf(critical, 2 * (n - 1), shift) + nct.sf(critical, 2 * (n - 1), -shift)
        return float(weights @ found / weights.sum())

    return 2 + bisect_left(range(2, MOST_SEEDS), power, key=power_of)
