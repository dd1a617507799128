"""Checks the members' predictions and combines them."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def checked_logits(output: Any) -> Tensor:
    """Returns a member's output if it can be logits: ``[examples, classes]``, or ``[examples, length, classes]`` for sequences.

    Raises:
        TypeError: the output is something else.
    """
    if isinstance(output, Tensor) and 2 <= output.dim() <= 3 and output.shape[-1] > 1:
        return output
    what = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"of type {type(output).__name__}"
    raise TypeError(
        f"ensemble() takes logits [examples, classes], and the output is {what}: pass forward=, a function that returns the "
        "logits when called as forward(model, *inputs)."
    )


def ensemble_log_probs(log_probs: Tensor) -> Tensor:
    """Returns the logarithm of the members' mean probabilities: ``[members, ...]`` -> ``[...]``."""
    return log_probs.logsumexp(0) - math.log(len(log_probs))
