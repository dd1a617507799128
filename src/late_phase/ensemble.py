"""The members' predictions, and what they are together."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def checked_logits(output: Any) -> Tensor:
    """A member's output, which has to be logits: ``[examples, classes]``, or of sequences ``[examples, length, classes]``.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(output, Tensor) and 2 <= output.dim() <= 3 and output.shape[-1] > 1:
        return output
    what = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"of type {type(output).__name__}"
    raise TypeError(
        f"ensemble() takes logits [examples, classes], and the output is {what}: pass forward=, which gives them by "
        "forward(model, *inputs)."
    )


def ensemble_log_probs(log_probs: Tensor) -> Tensor:
    """Log of the mean over members of their probabilities: ``[members, ...]`` -> ``[...]``."""
    return log_probs.logsumexp(0) - math.log(len(log_probs))
