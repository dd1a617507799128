"""``train.py`` in double precision, in which the rounding of another order of sums stays small."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from late_phase.data.images import Normalization


@contextmanager
def double_precision() -> Iterator[None]:
    single = Normalization.__call__
    Normalization.__call__ = lambda own, pixels: single(own, pixels).double()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Normalization.__call__ = single


if __name__ == "__main__":
    with double_precision():
        runpy.run_path(str(Path(__file__).resolve().parent.parent / "train.py"), run_name="__main__")
