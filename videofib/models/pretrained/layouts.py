"""The names that other projects give to a TimeSformer's weights, and how they split them; sizes stay as they are.

    official TimeSformer      blocks.0.temporal_attn.qkv.weight                                    (ours, too)
    timm image ViT            blocks.0.attn.qkv.weight
    Hugging Face TimeSformer  timesformer.encoder.layer.0.temporal_attention.attention.qkv.weight
    VideoMAE                  blocks.0.attn.qkv.weight with q_bias and v_bias, keys have no bias
    MMAction2's VideoMAE      the same; patch_embed.projection, blocks.0.mlp.layers.0.0 and .1
    Hugging Face VideoMAE     videomae.encoder.layer.0.attention.attention.{query,key,value}.weight, and q_bias and
                              v_bias before transformers 5, since then query.bias and value.bias
    DINOv2                    as timm's; the registers are register_tokens
    Hugging Face DINOv2       encoder.layer.0.norm1.weight, encoder.layer.0.layer_scale1.lambda1
    Hugging Face DeiT, ViViT  as ViT's; with distillation_token, or position_embeddings of all tokens of a clip
    Hugging Face CLIP         encoder.layers.0.self_attn.q_proj.weight, pre_layrnorm, embeddings.class_embedding
    MMAction2's TimeSformer   transformer_layers.layers.0.attentions.0.attn.in_proj_weight
    XCiT                      blocks.0.local_mp.conv1.weight, gamma1 to gamma3, cls_attn_blocks.0.attn.qkv.weight; in
                              timm's files cls_attn_blocks.0.attn.{q,k,v}.weight
    SkipAt                    as timm's, and param_1.linear1.0.weight, of the first block that skips attention

Files of transformers' ViT and DINOv2 have encoder.layer.0.attention.attention.query.weight; its modules, since
transformers 5, encoder.layer.0.attention.q_proj.weight, and ViT's layers.0 instead of encoder.layer.0.

Names come without the prefix of wrappers, which :mod:`~videofib.models.pretrained.file_parts` removes.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from videofib.models.pretrained import skipat

State = dict[str, Tensor]

OWN = "TimeSformer"
TIMM = "timm ViT"
HUGGING_FACE = "Hugging Face TimeSformer"
VIDEOMAE = "VideoMAE"
HUGGING_FACE_VIDEOMAE = "Hugging Face VideoMAE"
HUGGING_FACE_VIT = "Hugging Face ViT"
HUGGING_FACE_DINOV2 = "Hugging Face DINOv2"
HUGGING_FACE_DEIT = "Hugging Face DeiT"
HUGGING_FACE_VIVIT = "Hugging Face ViViT"
HUGGING_FACE_CLIP = "Hugging Face CLIP"
MMACTION = "MMAction2 TimeSformer"
XCIT = "XCiT"
SKIPAT = "SkipAt"
DISTILLATION = "dist_token"  # DeiT's second token, which has a position, under timm's name
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
_HF_PROJECTIONS = {  # of transformers 5's modules -> in files
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "o_proj": "output.dense",
}
_CLIP = (  # pattern -> our name; tokens and positions have axes of 1 in front, here
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.patch_embedding\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"pre_layrnorm\.(weight|bias)", r"norm_pre.\1"),
    (r"post_layernorm\.(weight|bias)", r"norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
)
_MMACTION_BLOCK = {  # of divided attention, where each part has its norm; then of the other types
    **{"attentions.0.norm": "temporal_norm1", "attentions.0.temporal_fc": "temporal_fc", "attentions.1.norm": "norm1"},
    **{"ffns.0.norm": "norm2", "norms.0": "norm1", "norms.1": "norm2"},
    **{"ffns.0.layers.0.0": "mlp.fc1", "ffns.0.layers.1": "mlp.fc2"},
}
_XCIT = (  # pattern -> ours
    (r"pos_embed(?:er)?\.(?=token_projection\.)", "fourier."),
    (r"cls_token$", "class_attention.cls_token"),
    (r"cls_attn_blocks\.", "class_attention.blocks."),
    (r"(.+\.\d+\.)norm3\.", r"\1local.norm."),
    (r"(.+\.\d+\.)local_mp\.", r"\1local.interaction."),
    (r"(.+\.\d+\.)gamma3$", r"\1local.scale.gamma"),
    (r"(.+\.\d+\.)gamma([12])$", r"\1ls\2.gamma"),
)
_CLASSIFIER = re.compile(r"head|(cls_)?classifier|fc|linear|(cls_head\.)?fc_cls|head\.(\d+|fc|classifier|projection)")
_HF_TOP_BACK = {theirs: ours for ours, theirs in _HF_TOP.items()}
_HF_BLOCK_BACK = {theirs: ours for ours, theirs in _HF_BLOCK.items()}


def to_ours(state: State) -> tuple[str, State]:
    """A state dict's layout, and its tensors under our names.

    Names that no layout knows stay as they are. ``state`` is a part without a prefix.

    Raises:
        ValueError: an unknown layout.
    """
    if "embeddings.patch_embedding.weight" in state:
        return HUGGING_FACE_CLIP, _rename_last(_from_clip(state))
    if any(name.startswith("transformer_layers.layers.") for name in state):
        return MMACTION, _rename_last(_from_mmaction(state))
    state = {_rename_as_timm(name): tensor for name, tensor in state.items()}
    if "embeddings.patch_embeddings.projection.weight" in state:
        state = {_rename_module_of_hf(name): tensor for name, tensor in state.items()}
        if any(name.endswith("attention.attention.query.weight") for name in state):
            return _separate_projections(state), _rename_last(_rename_from_hf(_join_projections(state)))
        return HUGGING_FACE, _rename_from_hf(state)
    names = state.keys()
    if "patch_embed.proj.0.0.weight" in names and "blocks.0.norm2.weight" in names:
        is_xcit = any(name.startswith("cls_attn_blocks.") for name in names)
        return (XCIT, _rename_last(_from_xcit(state))) if is_xcit else (OWN, state)
    if "patch_embed.proj.weight" in names and "blocks.0.attn.qkv.weight" in names:
        if "blocks.0.attn.q_bias" in names:
            return VIDEOMAE, _rename_last(_join_biases(state))
        if skipat.is_skipat(state):
            return SKIPAT, _rename_last(state)
        known = "time_embed" in names or "blocks.0.temporal_attn.qkv.weight" in names
        return OWN if known else TIMM, _rename_last(state)
    shown = ", ".join(sorted(map(str, names))[:4])
    raise ValueError(
        f"not the weights of a TimeSformer, a ViT or a VideoMAE encoder; its names begin with {shown or 'nothing'}"
    )


def canonical(name: str) -> str:
    """A tensor's name in the form that modules of transformers, their files, and adapters of either have in common."""
    return next(iter(_rename_from_hf({_rename_module_of_hf(_rename_as_timm(name)): torch.empty(0)})))


def is_classifier(name: str) -> bool:
    """Whether a tensor of this name, without a prefix, is of a classifier."""
    return _CLASSIFIER.fullmatch(name.rpartition(".")[0]) is not None


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


def _rename_from_hf(state: State) -> State:
    renamed = {}
    for name, tensor in state.items():
        if block := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias|gamma)", name):
            layer = _HF_BLOCK_BACK.get(block[2], block[2])
            renamed[f"blocks.{block[1]}.{layer}.{block[3]}"] = tensor
        else:
            renamed[_swap(name, _HF_TOP_BACK)] = tensor
    return renamed


def _separate_projections(state: State) -> str:
    """Which of transformers' models with query, key and value apart the tensors are of."""
    if any(name.endswith(".ls1.gamma") for name in state):
        return HUGGING_FACE_DINOV2
    if "dist_token" in state:
        return HUGGING_FACE_DEIT
    if "embeddings.cls_token" not in state:
        return HUGGING_FACE_VIDEOMAE
    is_of_clips = state["embeddings.patch_embeddings.projection.weight"].ndim == 5
    return HUGGING_FACE_VIVIT if is_of_clips else HUGGING_FACE_VIT


def _rename_module_of_hf(name: str) -> str:
    """The names of transformers 5's modules -> those in files."""
    name = re.sub(r"^layers\.(?=\d+\.)", "encoder.layer.", name)
    return re.sub(r"(?<=\.attention\.)[qkvo]_proj(?=\.)", lambda match: _HF_PROJECTIONS[match[0]], name)


def _rename_as_timm(name: str) -> str:
    """The names of MMAction2 and DINOv2, and the gammas of VideoMAE's and BEiT's code -> timm's."""
    name = re.sub(r"^(embeddings\.)?register_tokens$", "reg_token", name)
    name = re.sub(r"^embeddings\.distillation_token$", DISTILLATION, name)
    name = re.sub(r"^(encoder\.layer\.\d+\.)layer_scale([12])\.lambda1$", r"\1ls\2.gamma", name)
    name = re.sub(r"^patch_embed\.projection\.", "patch_embed.proj.", name)
    name = re.sub(
        r"^(blocks\.\d+\.mlp\.)layers\.(0\.0|1)\.", lambda m: f"{m[1]}{'fc2' if m[2] == '1' else 'fc1'}.", name
    )
    return re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", name)


def _rename_last(state: State) -> State:
    """The names of what stands behind the blocks: fc_norm -> norm, and the classifier's -> head.

    Models that pool by the mean call their last norm fc_norm; ours follows the pooling, too.
    """
    if "norm.weight" not in state:
        state = {re.sub(r"^fc_norm\.", "norm.", name): tensor for name, tensor in state.items()}
    layers = {name.removesuffix(".weight") for name in state if _CLASSIFIER.fullmatch(name.removesuffix(".weight"))}
    if len(layers) != 1 or layers == {"head"}:
        return state
    layer = layers.pop()
    return {
        re.sub(rf"^{re.escape(layer)}\.(?=(weight|bias)$)", "head.", name): tensor for name, tensor in state.items()
    }


def _from_clip(state: State) -> State:
    """CLIP's names -> ours; of a model of images and texts, the names of the latter stay as they are."""
    renamed = {}
    for name, tensor in state.items():
        if name == "embeddings.position_ids":  # 0, 1, 2, … in files of transformers 4
            continue
        for pattern, ours in _CLIP:
            if match := re.fullmatch(pattern, name):
                name = match.expand(ours)
                break
        lead = {"cls_token": 1, "pos_embed": 2}.get(name)  # axes behind those of 1
        renamed[name] = tensor.reshape((1,) * (3 - lead) + tensor.shape) if lead == tensor.ndim else tensor
    return _join_qkv(renamed)


def _from_xcit(state: State) -> State:
    """XCiT's names -> ours; timm has the query, key and value of class attention apart."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in _XCIT:
            name = re.sub(f"^{pattern}", ours, name)
        renamed[name] = tensor
    return _join_qkv(renamed)


def _join_qkv(state: State) -> State:
    """attn.q, attn.k, attn.v -> attn.qkv, in place."""
    for layer in [name.removesuffix("q.weight") for name in state if name.endswith(".attn.q.weight")]:
        for kind in ("weight", "bias"):
            if f"{layer}q.{kind}" in state:
                state[f"{layer}qkv.{kind}"] = _join(state, *(f"{layer}{part}.{kind}" for part in "qkv"))
    return state


def _from_mmaction(state: State) -> State:
    """MMAction2's names -> ours: torch's own attention, and in divided attention the temporal one first."""
    is_divided, renamed = any(".temporal_fc." in name for name in state), {}
    for name, tensor in state.items():
        if block := re.fullmatch(r"transformer_layers\.layers\.(\d+)\.(.+?)[._](weight|bias)", name):
            part = _MMACTION_BLOCK.get(block[2], block[2])
            if attention := re.fullmatch(r"attentions\.([01])\.attn\.(in_proj|out_proj)", part):
                which = "temporal_attn" if is_divided and attention[1] == "0" else "attn"
                part = f"{which}.{'qkv' if attention[2] == 'in_proj' else 'proj'}"
            name = f"blocks.{block[1]}.{part}.{block[3]}"
        renamed[name.replace("patch_embed.projection.", "patch_embed.proj.")] = tensor
    return renamed


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
        for query, value in (("query.bias", "value.bias"), ("q_bias", "v_bias")):
            if f"{layer}{query}" in state:
                key = f"{layer}key.bias" if f"{layer}key.bias" in state else None
                joined[f"{layer}qkv.bias"] = _join(joined, f"{layer}{query}", key, f"{layer}{value}")
                break
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
