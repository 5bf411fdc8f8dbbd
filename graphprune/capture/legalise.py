"""Rewrites fused attention of torch.nn, whose inner width is tied to the embedding width, so that it can be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from graphprune.program.tensors import submodules


class LegalAttention(nn.Module):
    """`nn.MultiheadAttention` as projections and a scaled dot product, with the same parameters under the same names.

    The graph holds the number of heads and their width as literal sizes, so heads can be removed.
    """

    in_proj_weight: Tensor
    in_proj_bias: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.training = fused.training
        self.num_heads, self.head_dim, self.embed_dim = fused.num_heads, fused.head_dim, fused.embed_dim
        self.batch_first = fused.batch_first
        self._qkv_same_embed_dim = fused._qkv_same_embed_dim  # nn.TransformerEncoderLayer reads it
        for name, parameter in fused.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.out_proj = fused.out_proj
        self.dropout = nn.Dropout(fused.dropout) if fused.dropout > 0 else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes what `nn.MultiheadAttention.forward` computes, from the same arguments."""
        if not self.batch_first:
            first = query.transpose(0, 1)
            value = first if value is query else value.transpose(0, 1)
            key = first if key is query else key.transpose(0, 1)
            query = first
        q, k, v = self._project(query, key, value)
        q, k, v = self._split_heads(q), self._split_heads(k), self._split_heads(v)
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
        mask = _combined_mask(q, attn_mask, key_padding_mask)
        weights = None
        if need_weights or self.dropout is not None:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            heads = (self.dropout(weights) if self.dropout is not None else weights) @ v
        else:
            heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))
        if not self.batch_first:
            output = output.transpose(0, 1)
        if not need_weights or weights is None:
            return output, None
        return output, weights.mean(dim=1) if average_attn_weights else weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self._qkv_same_embed_dim and query is key and key is value:
            return _thirds(functional.linear(query, self.in_proj_weight, self.in_proj_bias), dim=-1)
        if self._qkv_same_embed_dim:
            weights = _thirds(self.in_proj_weight, dim=0)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        bias = self.in_proj_bias
        biases: Sequence[Tensor | None] = (None, None, None) if bias is None else _thirds(bias, dim=0)
        return (
            functional.linear(query, weights[0], biases[0]),
            functional.linear(key, weights[1], biases[1]),
            functional.linear(value, weights[2], biases[2]),
        )

    def _split_heads(self, tensor: Tensor) -> Tensor:
        heads: Tensor = tensor.unflatten(-1, (self.num_heads, self.head_dim))
        return heads.transpose(1, 2)


def _thirds(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    parts = tensor.chunk(3, dim=dim)
    return parts[0], parts[1], parts[2]


def _combined_mask(query: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> Tensor | None:
    """Combines both masks into one that is added to the scores and broadcasts to their shape ``(N, heads, L, S)``.

    True in a boolean mask means hidden.
    """
    masks = []
    if attn_mask is not None:
        masks.append(_additive(query, attn_mask))
    if key_padding_mask is not None:
        masks.append(_additive(query, key_padding_mask)[:, None, None, :])
    if len(masks) == 2:
        return masks[0] + masks[1]
    return masks[0] if masks else None


@fx.wrap
def _additive(query: Tensor, mask: Tensor) -> Tensor:
    """Turns a mask into one that is added to the scores; one node of the graph, because it branches on the dtype."""
    if mask.dtype != torch.bool:
        return mask
    return query.new_zeros(mask.shape).masked_fill(mask, float("-inf"))


def can_legalise(module: nn.Module) -> bool:
    """True for attention without extra key and value rows; the legal form covers it for batched inputs."""
    return type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn


def legalise(model: nn.Module) -> nn.Module:
    """Replaces the fused modules of a model by their legal forms, in place; returns the model or its replacement."""
    if can_legalise(model):
        return LegalAttention(cast(nn.MultiheadAttention, model))
    for name, module in submodules(model).items():
        if can_legalise(module):
            model.set_submodule(name, LegalAttention(cast(nn.MultiheadAttention, module)))
    return model
