"""Op rules over ATen, one file per family; importing the package fills the table."""

from graphprune.ops import contraction, creation, movement, normalisation, pointwise, reduction, shuffle, spatial

__all__ = ["contraction", "creation", "movement", "normalisation", "pointwise", "reduction", "shuffle", "spatial"]
