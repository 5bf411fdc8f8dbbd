"""Hugging Face transformers with small configurations, otherwise built as users build them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

transformers: Any = import_module("transformers")
"""The library, without its type annotations, which lack some arguments of the configurations."""

Made = tuple[nn.Module, Any]

MODELS: dict[str, Callable[[], Made]] = {}

BATCH, TOKENS, VOCABULARY = 2, 12, 96


def _entry(make: Callable[[], Made]) -> Callable[[], Made]:
    MODELS[make.__name__] = make
    return make


def _tokens(length: int = TOKENS) -> Tensor:
    return torch.randint(1, VOCABULARY, (BATCH, length))


def _text() -> dict[str, Tensor]:
    return {"input_ids": _tokens(), "attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.long)}


def _pixels(size: int = 64) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(BATCH, 3, size, size)}


@_entry
def bert() -> Made:
    """Returns BERT: an encoder with token types and a pooler."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    return transformers.BertForSequenceClassification(config), _text()


@_entry
def distilbert() -> Made:
    """Returns DistilBERT: an encoder without token types."""
    config = transformers.DistilBertConfig(vocab_size=VOCABULARY, dim=48, n_layers=2, n_heads=4, hidden_dim=96)
    return transformers.DistilBertForSequenceClassification(config), _text()


@_entry
def vit() -> Made:
    """Returns ViT: patches, a class token, a position embedding."""
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=64, patch_size=16
    )
    return transformers.ViTForImageClassification(config), _pixels()


@_entry
def deit() -> Made:
    """Returns DeiT: patches, class and distillation tokens, two heads."""
    config = transformers.DeiTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=64, patch_size=16
    )
    return transformers.DeiTForImageClassificationWithTeacher(config), _pixels()


@_entry
def swin() -> Made:
    """Returns Swin: windows, shifts, relative positions, patch merging."""
    config = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    return transformers.SwinForImageClassification(config), _pixels()


@_entry
def convnextv2() -> Made:
    """Returns ConvNeXt V2: depthwise convolutions, channels last, global response normalisation."""
    config = transformers.ConvNextV2Config(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1])
    return transformers.ConvNextV2ForImageClassification(config), _pixels()


@_entry
def segformer() -> Made:
    """Returns SegFormer: attention with reduced keys, four scales in the head."""
    config = transformers.SegformerConfig(
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=32,
        num_labels=5,
    )
    return transformers.SegformerForSemanticSegmentation(config), _pixels()


@_entry
def gpt2() -> Made:
    """Returns GPT-2: a causal decoder with transposed weights and a tied head."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4, n_positions=64, use_cache=False
    )
    return transformers.GPT2LMHeadModel(config), _text()


@_entry
def llama() -> Made:
    """Returns Llama: grouped queries (4 heads share 2 keys), rotary positions, gated feed-forward, RMSNorm."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config), _text()


@_entry
def t5() -> Made:
    """Returns T5: encoder and decoder, relative position bias, cross attention, tied embeddings."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        use_cache=False,
        decoder_start_token_id=0,
    )
    inputs = {"input_ids": _tokens(), "decoder_input_ids": _tokens(8)}
    return transformers.T5ForConditionalGeneration(config), inputs


@_entry
def clip() -> Made:
    """Returns CLIP: two towers and their similarities."""
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 32, "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 64, "patch_size": 16,
    }  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    return transformers.CLIPModel(config), _text() | _pixels()


@_entry
def whisper_encoder() -> Made:
    """Returns the encoder of Whisper: strided convolutions over a spectrogram, then a transformer."""
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=48,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_layers=1,
        decoder_attention_heads=4,
        num_mel_bins=16,
        max_source_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    return encoder, {"input_features": torch.randn(BATCH, 16, 48)}
