"""Hashes that stand for contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor


def digest(*parts: str | Path) -> str:
    """A hash of strings and of the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                while block := file.read(2**20):
                    total.update(block)
        else:
            total.update(part.encode(errors="surrogatepass"))  # a file's name need not be UTF-8
        total.update(b"\0")
    return total.hexdigest()


def tensor_digest(tensors: Iterable[Tensor]) -> str:
    """A hash of tensors' types, shapes and values."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy())
    return total.hexdigest()
