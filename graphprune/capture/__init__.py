"""From an nn.Module to a `Program`, by torch.fx or, where that fails, by torch.export."""

from graphprune.capture.capture import capture

__all__ = ["capture"]
