"""Training that brings a compact network nearer to the dense one."""

from graphprune.distillation.distill import Distillation, distill
from graphprune.distillation.finetune import FineTuning, finetune

__all__ = ["Distillation", "FineTuning", "distill", "finetune"]
