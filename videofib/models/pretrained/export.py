"""Write our weights in other projects' layouts: the official TimeSformer's checkpoints, and Hugging Face folders.

Both layouts describe dense attention, learned positions and a class token, and nothing else: a model with anything
more is refused, since the code that reads them would compute another one. ``remote_code=True`` writes, for Hugging
Face, code beside the weights that computes any of our models (``pretrained/remote_code``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from videofib.attention import wythoff
from videofib.checkpoint.file import CheckpointError
from videofib.files import replacing
from videofib.mixers import MIXERS
from videofib.models.patch_embed import ConvStem
from videofib.models.pretrained import layouts
from videofib.models.pretrained.model_settings import OWN_MODEL_TYPE
from videofib.models.timesformer import TimeSformer
from videofib.models.wrappers import unwrapped

_REMOTE = Path(__file__).parent / "remote_code"
_REMOTE_FILES = (
    *(_REMOTE / f"{name}_videofib.py" for name in ("configuration", "modeling")),
    Path(wythoff.__file__),  # needs the standard library alone
)
VIDEO_PROCESSOR = (
    "video_processing_videofib"  # reads videos for both layouts; it needs modules of videofib.data beside it
)
VIDEO_PROCESSOR_FILE = _REMOTE / f"{VIDEO_PROCESSOR}.py"
_REMOTE_MIXERS = ("dense", "fibottention")  # what modeling_videofib.py computes
_HIDDEN_ACT = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}  # transformers' names
_AUTO_MAP = {
    "AutoConfig": "configuration_videofib.VideofibTimesformerConfig",
    "AutoModelForVideoClassification": "modeling_videofib.VideofibTimesformerForVideoClassification",
}


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
    model = cast(TimeSformer, unwrapped(model))  # checked below
    state = layouts.to_official(_dense_state(model, "the official TimeSformer's layout"))
    content = {"epoch": 0, "model_state": state, "cfg": config}
    if class_names is not None:
        content["videofib"] = {"classes": list(_named(model, class_names))}
    path = Path(path)
    try:
        with replacing(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
    return path


def save_hugging_face(
    model: TimeSformer,
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    remote_code: bool = False,
    several_classes: bool = False,
    note: Mapping[str, object] | None = None,
) -> Path:
    """Write ``folder/model.safetensors`` and ``folder/config.json``, for ``TimesformerForVideoClassification``.

    Args:
        class_names: names of the K classes; default: ``LABEL_0``, ``LABEL_1``, …
        remote_code: also write the code of the model, for ``AutoModelForVideoClassification.from_pretrained(folder,
            trust_remote_code=True)``. It needs torch and transformers alone, and computes every TimeSformer of ours.
        several_classes: a video may have several classes: scores are the sigmoid of logits, not their softmax.
        note: plain values that only videofib reads back, as the entry ``videofib`` of ``config.json``.

    Raises:
        CheckpointError: a model that the layout, or the code, cannot hold, or a folder that cannot be written.
    """
    model = cast(TimeSformer, unwrapped(model))  # checked below
    if remote_code:
        state, config = _remote_state(model), _remote_config(model, class_names)
    else:
        state = layouts.to_hugging_face(_dense_state(model, "Hugging Face's TimeSformer layout", _REMOTE_HINT))
        config = _hugging_face_config(model, class_names)
    if several_classes:
        config["problem_type"] = "multi_label_classification"
    if note is not None:
        config["videofib"] = {**config.get("videofib", {}), **note}
    return _write_folder(Path(folder), state, config, _REMOTE_FILES if remote_code else ())


def save_own(model: nn.Module, folder: str | Path, *, class_names: Sequence[str], note: Mapping[str, object]) -> Path:
    """Write any model under its own names, as ``model.safetensors`` and ``config.json``, which only videofib reads.

    Raises:
        CheckpointError: a folder that cannot be written.
    """
    config = {
        "model_type": "videofib",
        "id2label": {str(i): name for i, name in enumerate(class_names)},
        "videofib": dict(note),
    }
    return _write_folder(
        Path(folder), {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, config
    )


def _write_folder(folder: Path, state: layouts.State, config: Mapping[str, object], code: Sequence[Path] = ()) -> Path:
    """Raises CheckpointError where a file cannot be written."""
    try:
        for file in code:
            with replacing(folder / file.name) as partial:
                partial.write_bytes(file.read_bytes())
        with replacing(folder / "model.safetensors") as partial:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial, {"format": "pt"})
        with replacing(folder / "config.json") as partial:
            partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from error
    return folder


_REMOTE_HINT = "; write its code beside the weights (--remote-code, or remote_code=True)"


def _dense_state(model: nn.Module, layout: str, hint: str = "") -> layouts.State:
    """The weights, on the CPU.

    Raises:
        CheckpointError: a model with something that the layout cannot hold; the message names it, and ends with
            ``hint``.
    """
    if not isinstance(model, TimeSformer):
        raise CheckpointError(f"{layout} cannot hold a {type(model).__name__}")
    if found := _beyond_dense(model):
        raise CheckpointError(f"{layout} cannot hold a model with {', '.join(found)}{hint}")
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def holds_dense(model: TimeSformer) -> bool:
    """Whether the layouts of dense models hold this one, without code beside its weights."""
    return not _beyond_dense(model)


def _beyond_dense(model: TimeSformer) -> list[str]:
    """What a model has that neither the official layout nor Hugging Face's own can hold."""
    parts = {
        f"tubelets of {model.patch_embed.tubelet_size} frames": model.patch_embed.tubelet_size > 1,
        "no class token": model.cls_token is None,
        "registers": model.reg_token is not None,
        f"{model.position} positions": model.pos_embed is None,
        "a convolutional stem": isinstance(model.patch_embed, ConvStem),
        "local interaction": model.local_interaction != "none",
        "fewer tokens in later blocks": model.first_reduction() is not None,
        "positions of all tokens": model.joint_positions,
        f"activation {model.activation}": model.activation != "gelu",
        "pooling by the mean": model.pooling == "mean",
        "pooling by class attention": model.class_attention is not None,
        "qk-norm": _qk_norm(model),
        "layer scale": not isinstance(model.blocks[0].ls2, nn.Identity),
        "a norm in front of the blocks": isinstance(model.norm_pre, nn.LayerNorm),
        _sparse(model): bool(model.attention_settings()),
    }
    return [what for what, is_there in parts.items() if is_there]


def _qk_norm(model: TimeSformer) -> bool:
    return any(isinstance(getattr(mixer, "q_norm", None), nn.LayerNorm) for mixer in model.blocks.mixers().values())


def _sparse(model: TimeSformer) -> str:
    """Its attention, for a message: ``attention (joint fibottention)``."""
    named = {kind: dict.fromkeys(names) for kind, names in model.mixers.names.items()}
    found = ", ".join(f"{kind} {name}" for kind, names in named.items() for name in names if name != "dense")
    return f"attention ({found})"


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
    return config


def _remote_state(model: nn.Module) -> layouts.State:
    """The weights, on the CPU, under our names.

    Raises:
        CheckpointError: not a TimeSformer, or one that the code cannot compute.
    """
    if not isinstance(model, TimeSformer) or not isinstance(model.head, nn.Linear):
        what = "without a classifier" if isinstance(model, TimeSformer) else f"of type {type(model).__name__}"
        raise CheckpointError(f"Hugging Face's layout with remote code cannot hold a model {what}")
    if unknown := sorted(set(model.mixers.used()) - set(_REMOTE_MIXERS)):
        raise CheckpointError(
            f"the remote code computes {' and '.join(_REMOTE_MIXERS)} attention only, and this model has "
            f"{', '.join(unknown)}"
        )
    if mixed := [f"{kind}_attention" for kind, names in model.mixers.names.items() if len(set(names)) > 1]:
        raise CheckpointError(f"the remote code computes the same attention in all blocks, and {mixed[0]} is a list")
    beyond = {
        "pooling by class attention": model.class_attention is not None,
        "a convolutional stem": isinstance(model.patch_embed, ConvStem),
        "fourier positions": model.fourier is not None,
        "local interaction": model.local_interaction != "none",
        "fewer tokens in later blocks": model.first_reduction() is not None,
    }
    if found := [what for what, is_there in beyond.items() if is_there]:
        raise CheckpointError(f"the remote code cannot compute a model with {', '.join(found)}")
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def _remote_config(model: TimeSformer, class_names: Sequence[str] | None) -> dict:
    block, patch, names = model.blocks[0], model.patch_embed, _named(model, class_names)
    options = {name: MIXERS[name].options | model.mixers.options.get(name, {}) for name in _REMOTE_MIXERS}
    return {
        "architectures": ["VideofibTimesformerForVideoClassification"],
        "model_type": OWN_MODEL_TYPE,
        "auto_map": _AUTO_MAP,
        "attention_type": layouts.SPARSE + model.attention_type,
        "attentions": {kind: {"name": names[0], **options[names[0]]} for kind, names in model.mixers.names.items()},
        "token_order": model.token_order,
        "image_size": [side * patch.patch_size for side in patch.grid_size],
        "patch_size": patch.patch_size,
        "num_channels": patch.in_chans,
        "num_frames": model.num_frames,
        "tubelet_size": patch.tubelet_size,
        "hidden_size": model.norm.normalized_shape[0],
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": _HIDDEN_ACT[model.activation],
        "layer_norm_eps": model.norm.eps,
        "qkv_bias": block.attn.qkv.bias is not None,
        "qk_norm": _qk_norm(model),
        "layer_scale": not isinstance(block.ls2, nn.Identity),
        "pre_norm": isinstance(model.norm_pre, nn.LayerNorm),
        "class_token": model.cls_token is not None,
        "num_registers": 0 if model.reg_token is None else model.reg_token.shape[1],
        "pooling": model.pooling,
        "position": model.position,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "videofib": {"attention": model.attention_settings()},
    }
