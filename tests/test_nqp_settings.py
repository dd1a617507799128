"""Which settings of the noisy quadratic problem are possible at all."""

from __future__ import annotations

import math
import re

import pytest

from late_phase.nqp.settings import Settings, check
from late_phase.support.errors import UserError


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "deep"}, "model=deep is unknown: choose one of late_phase, parameterised, full."),
        ({"seeds": []}, "seeds=[] is empty or repeats a seed"),
        ({"seeds": [1, 1]}, "seeds=[1, 1] is empty or repeats a seed"),
        ({"seeds": [0, -1]}, "seeds=[0, -1] has -1, which is out of range: choose from 0 to below 2^63."),
        ({"seeds": [2**63]}, f"seeds=[{2**63}] has {2**63}, which is out of range: choose from 0 to below 2^63."),
        *(
            ({key: value}, f"{key}={value} is out of range: choose an integer from 1 to below 2^63.")
            for key in ("K", "B", "n", "d", "repetitions")
            for value in (-1, 0, 2**63, 10**24)
        ),
        *(
            ({key: value}, f"{key}={value} is out of range: choose a number from 1e-30 to 1e30.")
            for key in ("eta", "target_norm", "phi0")
            for value in (-0.1, 0.0, 5e-324, 1e-300, 1e300, math.inf, math.nan)
        ),
        *(({"window": value}, f"window={value} is out of range") for value in (0.5, -math.inf, 1e300, math.inf, math.nan)),
        *(({"tolerance": value}, f"tolerance={value} is out of range") for value in (0.0, 1.0, 1e-300, math.inf, math.nan)),
    ],
)
def test_impossible_settings_are_refused(changes, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        check(Settings(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"seeds": [0, 2**63 - 1]}, {"B": 2**63 - 1}, {"eta": 1e-30, "phi0": 1e30, "tolerance": 1e-30}, {"window": 1.0}],
)
def test_the_ends_of_the_ranges_are_possible(changes):
    assert check(Settings(**changes)) == Settings(**changes)
