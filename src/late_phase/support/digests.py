"""Hashes of contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor


def digest(*parts: str | Path) -> str:
    """Returns a hash of strings and of the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                while block := file.read(2**20):
                    total.update(block)
        else:
            total.update(part.encode(errors="surrogatepass"))  # names of files may not be UTF-8
        total.update(b"\0")
    return total.hexdigest()


def tensor_digest(tensors: Iterable[Tensor]) -> str:
    """Returns a hash of the types, shapes and values of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy())
    return total.hexdigest()
