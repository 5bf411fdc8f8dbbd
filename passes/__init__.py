"""The transformations: one file for each pass over a `Program`.

The folder lies at the top level of the repository because a pass is what most people come to read or add. It is a part
of the package all the same: the committed link ``graphprune/passes`` leads here, and ``graphprune.passes`` is its only
import name. Under a second name every class would exist twice, and a pass would be registered twice.
"""

if __name__ != "graphprune.passes":
    raise ImportError(f"this folder is imported as 'graphprune.passes', not as {__name__!r}")
