"""Which modules stay whole in a graph."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

_COMPOSITE = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


def is_leaf(module: nn.Module) -> bool:
    """True for layers of torch.nn, and for modules without parameters that switch with the mode (DropPath).

    A subclass counts as the layer where it inherits ``forward``, and in any case where it is a normalisation: its
    running statistics follow its own mode, which a graph of functions could not.
    """
    kind = type(module)
    if "forward" in vars(module):  # replaced on this one, by code that may do anything
        return False
    if kind.__module__.startswith("torch.nn"):
        return not isinstance(module, _COMPOSITE)
    if isinstance(module, _NormBase):
        return True
    inherited = getattr(kind.forward, "__module__", "") or ""
    if inherited.startswith("torch.nn.modules") and not isinstance(module, (*_COMPOSITE, fx.GraphModule)):
        return inherited != "torch.nn.modules.module"
    return switches_with_mode(module)


def switches_with_mode(module: nn.Module) -> bool:
    """True for a module without state or children whose forward reads ``self.training``."""
    if next(module.children(), None) is not None or any(True for _ in (*module.parameters(), *module.buffers())):
        return False
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names
