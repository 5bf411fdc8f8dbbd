"""Making a program smaller: parameters, module attributes, and literal sizes in the graph."""

from graphprune.rewrite.compact import compact_module, compose_kept, foretold_shapes
from graphprune.rewrite.literals import can_resize

__all__ = ["can_resize", "compact_module", "compose_kept", "foretold_shapes"]
