"""Masks as JSON content: eight weights per byte, bytes in base64."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import torch

from graphprune.program.tensors import Masks


def pack(masks: Masks) -> dict[str, dict[str, Any]]:
    """Returns the shape and the packed bits of each mask."""
    return {
        name: {
            "shape": list(mask.shape),
            "live": base64.b64encode(np.packbits(mask.cpu().numpy(), axis=None).tobytes()).decode("ascii"),
        }
        for name, mask in sorted(masks.items())
    }


def unpack(content: dict[str, dict[str, Any]]) -> Masks:
    """Reads the masks that `pack` wrote.

    Raises:
        ValueError: a mask has more or fewer bits than its shape needs, or an entry is not in the form that `pack`
            writes.
    """
    masks: Masks = {}
    for name, entry in content.items():
        shape = entry["shape"]
        if not all(type(size) is int and size > 0 for size in shape):
            raise ValueError(f"{name}: expected a shape, got {shape!r:.60}")
        bits, count = np.frombuffer(base64.b64decode(entry["live"], validate=True), dtype=np.uint8), math.prod(shape)
        if len(bits) != -(-count // 8):
            raise ValueError(f"{name}: {len(bits)} bytes for the mask of {count} weights")
        masks[name] = torch.from_numpy(np.unpackbits(bits, count=count).astype(bool)).view(shape)
    return masks
