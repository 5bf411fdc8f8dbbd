"""Temporary changes to the state of the process: its random generators and log levels."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def private_random_state(seed: int) -> Iterator[None]:
    """Seeds the generators of torch (all devices in use), numpy and Python; restores their states afterwards."""
    on_cuda = torch.cuda.is_initialized()
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if on_cuda else []):
            torch.default_generator.manual_seed(seed)
            if on_cuda:  # before CUDA is in use, the call would be queued and change the device's seed for good
                torch.cuda.manual_seed_all(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def only_errors(*names: str) -> Iterator[None]:
    """Restricts the loggers of these names, and those below them, to errors within the context."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
