"""Values that are put away: in memory up to a limit, beyond it in files."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

LIMIT_BYTES = 256 * 2**20
"""So much is kept in memory; files cost time, which only large networks and many samples are worth."""


class Shelf:
    """Values by key; a context, at the end of which its files are removed.

    Tensors of one value that share memory still do when the value comes back.
    """

    def __init__(self) -> None:
        self._limit_bytes, self._used_bytes = LIMIT_BYTES, 0
        self._values: dict[Hashable, tuple[Any, int]] = {}
        self._files: dict[Hashable, Path] = {}
        self._written = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Shelf:
        """The shelf itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Removes the files."""
        self._values.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, key: Hashable, value: Any) -> None:
        """Puts a value away; the key must be free."""
        size_bytes = _bytes_of(value)
        if self._used_bytes + size_bytes <= self._limit_bytes or not self._is_filed(key, value):
            self._values[key] = value, size_bytes
            self._used_bytes += size_bytes

    def take(self, key: Hashable) -> Any:
        """The value of a key, which is free then.

        Raises:
            KeyError: there is no such value.
        """
        if key in self._values:
            value, size_bytes = self._values.pop(key)
            self._used_bytes -= size_bytes
            return value
        path = self._files.pop(key)
        value = torch.load(path, weights_only=False, mmap=True)  # a file of our own, read where it is needed
        path.unlink()
        return value

    def _is_filed(self, key: Hashable, value: Any) -> bool:
        """Writes a value to a file; False if it holds something that cannot be written."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphprune-")
        path = Path(self._folder.name) / f"{self._written}.pt"
        self._written += 1
        try:
            torch.save(value, path)
        except (TypeError, AttributeError, RuntimeError):
            path.unlink(missing_ok=True)
            return False
        self._files[key] = path
        return True


def _bytes_of(value: Any) -> int:
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
