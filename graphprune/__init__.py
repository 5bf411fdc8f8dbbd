"""graphprune: prunes PyTorch models for real, proves it, and exports them.

`compile` is the one call; `Pruner` does the same one round at a time inside a training loop; `load` reads what
`Compiled.save` wrote.
"""

import sys as _sys

from graphprune import criteria as _criteria
from graphprune import ops as _ops
from graphprune.compile import compile
from graphprune.compiled import Compiled
from graphprune.criteria import scores as _scores
from graphprune.criteria import weights as _weight_criteria
from graphprune.distillation import distill, finetune
from graphprune.errors import GraphPruneError, InternalError, UserError
from graphprune.latency import Profile
from graphprune.pass_manager import runner as _runner
from graphprune.pass_manager.runner import Runner
from graphprune.plan.plan import Plan
from graphprune.profile import profile
from graphprune.pruner import Pruner
from graphprune.report import Report
from graphprune.request.budget import Budget
from graphprune.saving.artifact import load
from graphprune.sweep.accuracy import top_one
from graphprune.sweep.result import Sweep
from graphprune.sweep.run import sweep
from graphprune.verification.record import Verification
from graphprune.version import __version__ as __version__

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
    "distill",
    "finetune",
    "load",
    "profile",
    "sweep",
    "top_one",
]

# former module paths, which users' code still imports: README and messages named them before the modules moved
_sys.modules.update({
    "graphprune.runner": _runner,
    "graphprune.scores": _scores,
    "graphprune.weights": _criteria,
    "graphprune.weights.criteria": _weight_criteria,
})  # fmt: skip

del _criteria, _ops, _runner, _scores, _sys, _weight_criteria
