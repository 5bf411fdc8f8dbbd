"""Bytes that a network takes on disk: dense, in compressed sparse rows, and by the paper's estimate."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.research.metrics.layers import as_matrix, is_of_weight, layer_weight, layers_of

VALUE_BITS = 32
INDEX_BITS = 32
"""Bits of a column index and of a row pointer, as scipy and torch store them."""

PAPER_BITS = 34
"""Bits of a non-zero weight in the paper's estimate: 32 for its value, 2 for its index, which reach four columns."""

PAPER_ROW_BITS = 2


@dataclass(frozen=True)
class DiskSize:
    """Size of a network on disk.

    All but `other_bytes` are for the weights of convolutions and linear layers. Each weight is a matrix
    ``(rows, rest)`` with the output channels as rows.

    Attributes:
        dense_bytes: 32 bits for each weight that is there, zero or not.
        csr_bytes: Compressed sparse rows: value and column of each non-zero, 32 bits each; a row pointer of 32 bits
            for each row, and one more.
        smaller_bytes: Each matrix in the smaller of the two forms; what a sensible file has.
        paper_bytes: The paper's estimate, 34 bits for each non-zero and 2 for each row; no reader could use it, since
            2 bits do not hold a column. Source: appendix H.
        other_bytes: Other in bytes of all else (biases, normalisation), in no figure above.
        nonzero: Weights that are not zero.
        rows: Rows of all matrices.
    """

    dense_bytes: int
    csr_bytes: int
    smaller_bytes: int
    paper_bytes: float
    other_bytes: int
    nonzero: int
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON."""
        return asdict(self)


def disk_size(model: nn.Module, dense: nn.Module, index_bits: int = INDEX_BITS) -> DiskSize:
    """Returns the size of a network that has zeros, is physically smaller, or both.

    Args:
        model: The network.
        dense: The network that it came from, which says what the layers are; itself for its own size.
        index_bits: Index in bits of a column index in `DiskSize.csr_bytes`.
    """
    layers = layers_of(dense)
    weights = ((layer, layer_weight(model, name)) for name, layer in layers.items())
    matrices = [as_matrix(layer, weight) for layer, weight in weights if weight is not None]
    as_dense = [matrix.numel() * VALUE_BITS // 8 for matrix in matrices]
    as_sparse = [_csr_bytes(matrix, index_bits) for matrix in matrices]
    nonzero = sum(int(torch.count_nonzero(matrix)) for matrix in matrices)
    rows = sum(len(matrix) for matrix in matrices)
    stored = (*model.named_parameters(), *model.named_buffers())
    return DiskSize(
        dense_bytes=sum(as_dense),
        csr_bytes=sum(as_sparse),
        smaller_bytes=sum(map(min, as_dense, as_sparse)),
        paper_bytes=(PAPER_BITS * nonzero + PAPER_ROW_BITS * rows) / 8,
        other_bytes=sum(tensor.nbytes for name, tensor in stored if not is_of_weight(name, layers)),
        nonzero=nonzero,
        rows=rows,
    )


def _csr_bytes(matrix: Tensor, index_bits: int) -> int:
    nonzero = int(torch.count_nonzero(matrix))
    bits = nonzero * (VALUE_BITS + index_bits) + (len(matrix) + 1) * INDEX_BITS
    return -(-bits // 8)
