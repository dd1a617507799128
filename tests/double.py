"""``train.py`` in double precision, in which the rounding of another order of sums stays small."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from late_phase.data.images import Normalization
from late_phase.data.table_encoding import TableEncoding


@contextmanager
def double_precision() -> Iterator[None]:
    single, of_table = Normalization.__call__, TableEncoding.encode
    Normalization.__call__ = lambda own, pixels: single(own, pixels).double()
    TableEncoding.encode = lambda own, rows, what: tuple(values.double() for values in of_table(own, rows, what))
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Normalization.__call__, TableEncoding.encode = single, of_table


if __name__ == "__main__":
    with double_precision():
        runpy.run_path(str(Path(__file__).resolve().parent.parent / "train.py"), run_name="__main__")
