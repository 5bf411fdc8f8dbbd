"""graphprune: prunes PyTorch models for real, proves it, and exports them.

`compile` is the one call; `Pruner` does the same one round at a time inside a training loop; `load` reads what
`Compiled.save` wrote.
"""

from graphprune import ops as _ops
from graphprune.accuracy import top_one
from graphprune.budget import Budget
from graphprune.compile import compile
from graphprune.compiled import Compiled
from graphprune.equivalence import Verification
from graphprune.errors import GraphPruneError, InternalError, UserError
from graphprune.latency import Profile, profile
from graphprune.plan import Plan
from graphprune.pruner import Pruner
from graphprune.report import Report
from graphprune.runner import Runner
from graphprune.saving.artifact import load
from graphprune.sweep import sweep
from graphprune.swept import Sweep

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Compiled",
    "GraphPruneError",
    "InternalError",
    "Plan",
    "Profile",
    "Pruner",
    "Report",
    "Runner",
    "Sweep",
    "UserError",
    "Verification",
    "compile",
    "load",
    "profile",
    "sweep",
    "top_one",
]

del _ops
