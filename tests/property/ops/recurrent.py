"""Recurrent layers and cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.property.programs import Builder, Value, op


@op("tokens")
def recurrent(b: Builder, x: int) -> int | None:
    length, width = b.values[x].shape
    hidden, depth, both = b.choose([3, 4]), b.choose([1, 1, 2]), bool(b.below(2))
    kind = b.choose([nn.LSTM, nn.GRU, nn.RNN])
    projected = 2 if kind is nn.LSTM and b.below(4) == 0 else 0
    options = {"bias": bool(b.below(3)), "batch_first": True, "bidirectional": both}
    layer = b.store(kind(width, hidden, depth, **options, **({"proj_size": projected} if projected else {})))
    hidden = projected or hidden
    outputs = Value("tokens", (length, hidden * (2 if both else 1)))
    last = Value("features", (hidden,))

    def last_state(module: nn.Module, y: Tensor) -> Any:
        state = module(y)[1]
        return (state[0] if kind is nn.LSTM else state)[-1]

    if b.below(3) == 0:
        return b.add(f"state of {kind.__name__}", [x], last, last_state, layer)
    return b.add(f"{kind.__name__} {hidden}x{depth}", [x], outputs, lambda module, y: module(y)[0], layer)


@op("features")
def recurrent_cell(b: Builder, x: int) -> int | None:
    """Two steps by hand."""
    (width,) = b.values[x].shape
    kind = b.choose([nn.GRUCell, nn.RNNCell, nn.LSTMCell])
    layer = b.store(kind(width, 4))

    def steps(module: nn.Module, y: Tensor) -> Any:
        state = module(y, module(y))
        return torch.cat(state, 1)[:, :4] if kind is nn.LSTMCell else state

    return b.add(f"two steps of {kind.__name__}", [x], Value("features", (4,)), steps, layer)
