"""The names that other projects give to a TimeSformer's weights, and how they split them; sizes stay as they are.

    official TimeSformer      blocks.0.temporal_attn.qkv.weight                                    (ours, too)
    timm image ViT            blocks.0.attn.qkv.weight
    Hugging Face TimeSformer  timesformer.encoder.layer.0.temporal_attention.attention.qkv.weight
    VideoMAE                  blocks.0.attn.qkv.weight with q_bias and v_bias, keys have no bias
    Hugging Face VideoMAE     videomae.encoder.layer.0.attention.attention.{query,key,value}.weight

A wrapper around a model (DataParallel, ``self.model``, a pretraining model's encoder) adds a prefix to the names.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

State = dict[str, Tensor]

OWN = "TimeSformer"
TIMM = "timm ViT"
HUGGING_FACE = "Hugging Face TimeSformer"
VIDEOMAE = "VideoMAE"
HUGGING_FACE_VIDEOMAE = "Hugging Face VideoMAE"
SPARSE = "sparse_"  # in front of the attention type in configs of our remote code

_HF_TOP = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "head": "classifier",
}
_HF_BLOCK = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
}
_HF_TOP_BACK = {theirs: ours for ours, theirs in _HF_TOP.items()}
_HF_BLOCK_BACK = {theirs: ours for ours, theirs in _HF_BLOCK.items()}


def to_ours(state: State) -> tuple[str, State]:
    """A state dict's layout, and its tensors under our names.

    Names that no layout knows stay as they are. ``state`` comes from :func:`unwrap`.

    Raises:
        ValueError: an unknown layout.
    """
    names = state.keys()
    if "embeddings.patch_embeddings.projection.weight" in names:
        if any(name.endswith("attention.attention.query.weight") for name in names):
            return HUGGING_FACE_VIDEOMAE, _rename_norm(_rename_from_hf(_join_projections(state)))
        return HUGGING_FACE, _rename_from_hf(state)
    if "patch_embed.proj.weight" in names and "blocks.0.attn.qkv.weight" in names:
        if "blocks.0.attn.q_bias" in names:
            return VIDEOMAE, _rename_norm(_join_biases(state))
        known = "time_embed" in names or "blocks.0.temporal_attn.qkv.weight" in names
        return OWN if known else TIMM, _rename_norm(state)
    shown = ", ".join(sorted(map(str, names))[:4])
    raise ValueError(
        f"not the weights of a TimeSformer, a ViT or a VideoMAE encoder; its names begin with {shown or 'nothing'}"
    )


def to_official(state: State) -> State:
    """Our names -> those of the official TimeSformer's checkpoints."""
    return {f"model.{name}": tensor for name, tensor in state.items()}


def to_hugging_face(state: State) -> State:
    """Our names -> those of transformers' ``TimesformerForVideoClassification``."""
    renamed = {}
    for name, tensor in state.items():
        if block := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            name = f"encoder.layer.{block[1]}.{_HF_BLOCK[block[2]]}.{block[3]}"
        else:
            name = _swap(name, _HF_TOP)
        renamed[name if name.startswith("classifier.") else f"timesformer.{name}"] = tensor
    return renamed


def unwrap(state: State) -> State:
    """Remove the prefix that wrappers add to the names; the patch embedding's name shows it.

    Raises:
        ValueError: two tensors would then have one name.
    """
    cores = ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight")
    prefixes = [name.removesuffix(core) for core in cores for name in state if name.endswith(core)]
    if not prefixes:  # not a transformer
        prefixes = [wrapper for wrapper in ("module.", "model.") if all(name.startswith(wrapper) for name in state)]
    prefix = prefixes[0] if prefixes else ""
    unwrapped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if len(unwrapped) < len(state):
        raise ValueError(f"some names occur both with and without the prefix {prefix!r}")
    return unwrapped


def _rename_from_hf(state: State) -> State:
    renamed = {}
    for name, tensor in state.items():
        if block := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name):
            layer = _HF_BLOCK_BACK.get(block[2], block[2])
            renamed[f"blocks.{block[1]}.{layer}.{block[3]}"] = tensor
        else:
            renamed[_swap(name, _HF_TOP_BACK)] = tensor
    return renamed


def _rename_norm(state: State) -> State:
    """fc_norm -> norm: models that pool by the mean call their last norm so; ours follows the pooling, too."""
    if "norm.weight" in state:
        return state
    return {re.sub(r"^fc_norm\.", "norm.", name): tensor for name, tensor in state.items()}


def _join_biases(state: State) -> State:
    """q_bias, v_bias -> qkv.bias; keys have no bias, which equals a bias of zero."""
    joined = dict(state)
    for name in [name for name in state if name.endswith(".q_bias")]:
        layer = name.removesuffix("q_bias")
        joined[f"{layer}qkv.bias"] = _join(joined, f"{layer}q_bias", None, f"{layer}v_bias")
    return joined


def _join_projections(state: State) -> State:
    """query, key, value -> qkv."""
    joined = dict(state)
    for name in [name for name in state if re.fullmatch(r"encoder\..+\.attention\.query\.weight", name)]:
        layer = name.removesuffix("query.weight")
        joined[f"{layer}qkv.weight"] = _join(joined, *(f"{layer}{part}.weight" for part in ("query", "key", "value")))
        if f"{layer}query.bias" in state:
            key = f"{layer}key.bias" if f"{layer}key.bias" in state else None
            joined[f"{layer}qkv.bias"] = _join(joined, f"{layer}query.bias", key, f"{layer}value.bias")
    return joined


def _join(state: State, *names: str | None) -> Tensor:
    """Remove the tensors of these names from ``state`` and concatenate them; None stands for zeros.

    Raises:
        ValueError: one is missing, or of another shape.
    """
    parts = [None if name is None else state.pop(name, None) for name in names]
    for name, part in zip(names, parts, strict=True):
        if name is not None and (part is None or part.shape != parts[0].shape):
            raise ValueError(f"{name} is missing, or of another shape than {names[0]}")
    return torch.cat([torch.zeros_like(parts[0]) if part is None else part for part in parts])


def _swap(name: str, names: dict[str, str]) -> str:
    """``name`` with its known part replaced: ``norm.weight`` -> ``layernorm.weight``."""
    stem, dot, kind = name.rpartition(".")
    if name in names:
        return names[name]
    return f"{names[stem]}{dot}{kind}" if stem in names else name
