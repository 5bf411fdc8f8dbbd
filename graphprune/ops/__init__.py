"""Op rules over ATen, one file per family; importing the package fills the table."""

from graphprune.ops import (
    contraction,
    convolution,
    creation,
    fourier,
    indexing,
    movement,
    normalisation,
    ordering,
    pairwise,
    pointwise,
    randomness,
    recurrent,
    reduction,
    shuffle,
    spatial,
    vision,
    windows,
)

__all__ = [
    "contraction", "convolution", "creation", "fourier", "indexing", "movement", "normalisation", "ordering",
    "pairwise", "pointwise", "randomness", "recurrent", "reduction", "shuffle", "spatial", "vision", "windows",
]  # fmt: skip
