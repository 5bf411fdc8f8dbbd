"""Bytes on disk, against what scipy stores."""

from __future__ import annotations

import copy
from math import ceil

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from graphprune.research.metrics import disk_size

DENSE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, groups=2), nn.Linear(40, 6))


def sparse(share: float) -> nn.Module:
    model = copy.deepcopy(DENSE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                assert name.endswith("weight")
                parameter.mul_(torch.rand(parameter.shape, generator=generator) >= share)
    return model


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_compressed_rows_are_scipys(share: float) -> None:
    model = sparse(share)
    sizes = disk_size(model, DENSE)
    matrices = [p.detach().reshape(len(p), -1).numpy() for p in model.parameters() if p.dim() > 1]
    stored = [csr_matrix(matrix) for matrix in matrices]
    assert all(matrix.indices.dtype == matrix.indptr.dtype == np.int32 for matrix in stored)
    as_sparse = [matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes for matrix in stored]
    assert sizes.csr_bytes == sum(as_sparse)
    assert sizes.dense_bytes == sum(matrix.nbytes for matrix in matrices)
    assert sizes.smaller_bytes == sum(min(a, b.nbytes) for a, b in zip(as_sparse, matrices, strict=True))
    assert sizes.nonzero == sum(matrix.nnz for matrix in stored)
    assert sizes.rows == 18
    assert sizes.paper_bytes == pytest.approx(sum(matrix.nnz * 34 + matrix.shape[0] * 2 for matrix in stored) / 8)
    # biases of three layers, four tensors of the normalisation, and its count of batches
    assert sizes.other_bytes == 4 * (8 + 4 + 6 + 4 * 8) + 8


def test_narrow_indices() -> None:
    model = sparse(0.9)
    stored = [csr_matrix(p.detach().reshape(len(p), -1).numpy()) for p in model.parameters() if p.dim() > 1]
    expected = sum(m.data.nbytes + m.indices.astype(np.uint8).nbytes + m.indptr.nbytes for m in stored)
    assert disk_size(model, DENSE, index_bits=8).csr_bytes == expected
    bits = sum(ceil((m.nnz * (32 + 6) + (m.shape[0] + 1) * 32) / 8) for m in stored)
    assert disk_size(model, DENSE, index_bits=6).csr_bytes == bits


def test_a_smaller_network() -> None:
    smaller = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=2), nn.Linear(40, 6))
    sizes = disk_size(smaller, DENSE)
    assert sizes.dense_bytes == 4 * (4 * 27 + 4 * 18 + 240)
    assert sizes.smaller_bytes == sizes.dense_bytes < disk_size(DENSE, DENSE).dense_bytes
    assert sizes.to_dict()["rows"] == 14
