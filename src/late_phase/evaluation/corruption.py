"""Mean error over corruptions of the test images (Hendrycks & Dietterich, 2019), Table 16."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from late_phase.data.corrupted import PAPERS_CORRUPTIONS, SEVERITIES


def corruption_errors(
    errors: Mapping[str, Mapping[int, float]], corruptions: Collection[str] = PAPERS_CORRUPTIONS
) -> dict[str, float]:
    """Returns ``mce``, the mean of all errors, and each corruption's mean over the severities, by its name.

    Errors are not divided by those of a reference network.

    Args:
        errors: corruption -> severity -> share of examples that are misclassified, 0 to 1.

    Raises:
        ValueError: corruptions or severities are missing or additional, or an error is outside 0 to 1.
    """
    _refuse_others("corruptions", errors, corruptions)
    means = {}
    for corruption in corruptions:
        _refuse_others(f"severities of {corruption}", errors[corruption], SEVERITIES)
        for severity, error in errors[corruption].items():
            if not 0 <= error <= 1:
                raise ValueError(f"the error for {corruption} of severity {severity} is {error}: pass shares from 0 to 1.")
        means[corruption] = math.fsum(errors[corruption].values()) / len(SEVERITIES)
    return {"mce": math.fsum(means.values()) / len(means)} | means


def _refuse_others(what: str, found: Iterable, expected: Collection) -> None:
    missing, additional = (sorted(map(str, names)) for names in (set(expected) - set(found), set(found) - set(expected)))
    if missing or additional:
        raise ValueError(
            f"a mean corruption error needs exactly {len(expected)} {what}; "
            f"missing: {', '.join(missing) or 'none'}; additional: {', '.join(additional) or 'none'}."
        )
