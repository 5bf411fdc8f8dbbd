"""Which modules stay whole in a graph."""

from __future__ import annotations

from torch import nn

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
    """True for layers of torch.nn, and for modules without parameters that switch with the mode (DropPath)."""
    if type(module).__module__.startswith("torch.nn"):
        return not isinstance(module, _COMPOSITE)
    return switches_with_mode(module)


def switches_with_mode(module: nn.Module) -> bool:
    """True for a module without state or children whose forward reads ``self.training``."""
    if next(module.children(), None) is not None or any(True for _ in (*module.parameters(), *module.buffers())):
        return False
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names
