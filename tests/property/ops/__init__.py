"""The ops of random programs, one file per family; importing the package fills the list."""

from tests.property.ops import (
    attention,
    elementwise,
    layers,
    layout,
    lookups,
    movement,
    norms,
    parts,
    recurrent,
    sharing,
)
from tests.property.programs import OPS

__all__ = [
    "OPS", "attention", "elementwise", "layers", "layout", "lookups", "movement", "norms", "parts", "recurrent",
    "sharing",
]  # fmt: skip
