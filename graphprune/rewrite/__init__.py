"""Making a program smaller: parameters, module attributes, and literal sizes in the graph.

Importing the package fills the table of rewriting rules.
"""

from graphprune.rewrite import literals, positions

__all__ = ["literals", "positions"]
