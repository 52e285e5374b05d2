"""Write our weights in other projects' layouts: the official TimeSformer's checkpoints, and Hugging Face folders.

Both support only dense attention, learned positions and a class token. A Fibottention model is written with a note: the
weights fit there, but attention is dense.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from videofib.checkpoint.file import CheckpointError
from videofib.files import replacing
from videofib.models.pretrained import layouts
from videofib.models.timesformer import TimeSformer

NOTE = "The weights are those of a model with sparse attention, see 'attention'; in this layout attention is dense."


def save_official(
    model: TimeSformer, path: str | Path, *, config: str = "", class_names: Sequence[str] | None = None
) -> Path:
    """Write ``path``, a ``.pyth`` file like the official TimeSformer's, completely or not at all.

    Args:
        config: text for its ``cfg`` entry, which is never read back.
        class_names: names of the K classes, which only videofib reads back.

    Raises:
        CheckpointError: a model that the layout cannot hold, or a file that cannot be written.
    """
    state = layouts.to_official(_dense_state(model, "the official TimeSformer's layout"))
    content = {"epoch": 0, "model_state": state, "cfg": config}
    beside = {"note": NOTE, "attention": settings} if (settings := model.attention_settings()) else {}
    if class_names is not None:
        beside["classes"] = list(_named(model, class_names))
    if beside:
        content["videofib"] = beside
    path = Path(path)
    try:
        with replacing(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    return path


def save_hugging_face(model: TimeSformer, folder: str | Path, *, class_names: Sequence[str] | None = None) -> Path:
    """Write ``folder/model.safetensors`` and ``folder/config.json`` for ``TimesformerForVideoClassification``.

    Args:
        class_names: names of the K classes; default: ``LABEL_0``, ``LABEL_1``, …

    Raises:
        CheckpointError: a model that the layout cannot hold, or a folder that cannot be written.
    """
    state = layouts.to_hugging_face(_dense_state(model, "Hugging Face's TimeSformer layout"))
    config = _hugging_face_config(model, class_names)
    folder = Path(folder)
    try:
        with replacing(folder / "model.safetensors") as partial:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial, {"format": "pt"})
        with replacing(folder / "config.json") as partial:
            partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from error
    return folder


def _dense_state(model: nn.Module, layout: str) -> layouts.State:
    """The weights, on the CPU.

    Raises:
        CheckpointError: a model with something that the layout cannot hold; the message names it.
    """
    if not isinstance(model, TimeSformer):
        raise CheckpointError(f"{layout} cannot hold a {type(model).__name__}")
    unsupported = {
        f"tubelets of {model.patch_embed.tubelet_size} frames": model.patch_embed.tubelet_size > 1,
        "no class token": model.cls_token is None,
        "registers": model.reg_token is not None,
        "sinusoid positions": model.pos_embed is None,
        "pooling by the mean": model.pooling == "mean",
        "qk-norm": isinstance(model.blocks[0].attn.q_norm, nn.LayerNorm),
        "layer scale": not isinstance(model.blocks[0].ls1, nn.Identity),
        "a norm in front of the blocks": isinstance(model.norm_pre, nn.LayerNorm),
    }
    if found := [what for what, is_there in unsupported.items() if is_there]:
        raise CheckpointError(f"{layout} cannot hold a model with {', '.join(found)}")
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def _named(model: TimeSformer, class_names: Sequence[str] | None) -> Sequence[str]:
    """The names of the model's classes, placeholders where there are none."""
    num_classes = model.head.out_features if isinstance(model.head, nn.Linear) else 0
    names = class_names or [f"LABEL_{i}" for i in range(num_classes)]
    if len(names) != num_classes:
        raise CheckpointError(f"got {len(names)} class names for {num_classes} classes")
    return names


def _hugging_face_config(model: TimeSformer, class_names: Sequence[str] | None) -> dict:
    block, patch = model.blocks[0], model.patch_embed
    names = _named(model, class_names)
    height, width = (side * patch.patch_size for side in patch.grid_size)
    if height != width:
        raise CheckpointError(
            f"Hugging Face's TimeSformer layout cannot hold frames of {height}x{width} pixels; it takes squares only"
        )
    config = {
        "architectures": ["TimesformerForVideoClassification"],
        "model_type": "timesformer",
        "attention_type": model.attention_type,
        "image_size": height,
        "patch_size": patch.patch_size,
        "num_channels": patch.in_chans,
        "num_frames": model.num_frames,
        "hidden_size": model.norm.normalized_shape[0],
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "qkv_bias": block.attn.qkv.bias is not None,
        "layer_norm_eps": model.norm.eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if settings := model.attention_settings():
        config["videofib"] = {"note": NOTE, "attention": settings}
    return config
