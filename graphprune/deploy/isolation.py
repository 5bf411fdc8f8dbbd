"""Work on a module that leaves no trace on it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def isolated_in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch to eval mode; at the end, restore the module's modes and buffers, and the random state of the process.

    The mode is set submodule by submodule: a module's own `eval` may do more (merge weights, freeze layers, refuse),
    which could not be undone. Parameters need no copy: nothing in an export or a forward pass writes to them.
    """
    modes = {part: part.training for part in module.modules()}
    buffers = {part: dict(part._buffers) for part in module.modules()}
    values = {id(tensor): tensor.detach().clone() for tensor in module.buffers()}
    try:
        for part in modes:
            part.training = False
        with _random_state_kept():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for part, own in buffers.items():
            part._buffers.clear()
            part._buffers.update(own)
            for tensor in own.values():
                if tensor is not None:
                    _write_back(tensor, values[id(tensor)])


def _write_back(tensor: Tensor, value: Tensor) -> None:
    """Undo a change; an unchanged tensor is not touched, so that graphs which saved it for backward stay valid."""
    if not torch.equal(tensor, value):
        with torch.no_grad():
            tensor.copy_(value)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the random generators of torch (all devices in use), of numpy and of Python at the end."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy_state = np.random.get_state()
    python_state = random.getstate()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
