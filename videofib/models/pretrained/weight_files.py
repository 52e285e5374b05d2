"""Read weights from files, folders and modules, as tensors and plain values, never as code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from videofib.checkpoint.file import CheckpointError, read_tensors
from videofib.classes import ClassesError, check_names
from videofib.models.pretrained.layouts import SPARSE
from videofib.models.timesformer import TimeSformer

# Under which keys checkpoints hold their weights; an average of the weights, if any, is what its authors evaluate.
_STATE_KEYS = ("ema_state", "model_state", "model_state_dict", "state_dict", "model", "module", "teacher")


@dataclass(frozen=True)
class Weights:
    """The tensors of a model under the names that its file gives them, and what the file says beside them.

    Attributes:
        name: the file, folder or class, for messages.
        state: the tensors by name.
        config: what a folder or module of Hugging Face or timm says about its model.
        attention: which attention was sparse (:meth:`TimeSformer.attention_settings`), empty if it was dense, None if
            that is not known.
        epoch: epochs trained, if the checkpoint says so.
        settings: the config of the run that trained it, as YAML; of our own checkpoints only.
        classes: the names of its classes, None where it has none or does not name them.
    """

    name: str
    state: dict[str, Tensor]
    config: Mapping[str, object] = field(default_factory=dict)
    attention: Mapping[str, object] | None = None
    epoch: int | None = None
    settings: str = ""
    classes: tuple[str, ...] | None = None


def read_weights(weights: str | Path | nn.Module | Mapping[str, object]) -> Weights:
    """Read a checkpoint file, a folder of Hugging Face or timm, a module of theirs, or a loaded file's content.

    Raises:
        CheckpointError: a file that is missing, damaged, holds code, or holds no weights.
    """
    if isinstance(weights, nn.Module):
        return _from_module(weights)
    if isinstance(weights, Mapping):
        return _from_content(weights, "a state dict")
    path = Path(weights)
    if path.is_dir() and path.suffix != ".dcp":  # a .dcp folder is a checkpoint of ours
        return _from_folder(path)
    if path.suffix == ".safetensors":
        return Weights(str(weights), _read_safetensors(path), attention={})
    return _from_content(read_tensors(path), str(weights))


def _from_module(module: nn.Module) -> Weights:
    name, state = type(module).__name__, module.state_dict()
    if isinstance(module, TimeSformer):
        return Weights(name, state, attention=module.attention_settings())
    config = module.config.to_dict() if hasattr(module, "config") else _timm_config(module)
    return Weights(name, state, config, attention={}, classes=_labels(config, state))


def _from_content(content: object, name: str) -> Weights:
    """From what ``torch.load`` returned: a state dict, or a dict that holds one."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{name} holds no weights, only one {type(content).__name__}")
    key = next((key for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), None)
    if key is None:
        return Weights(name, _tensors(content, name))
    ours = content.keys() >= {"config", "versions"}
    beside = content if ours else content.get("videofib")
    classes = beside.get("classes") if isinstance(beside, Mapping) else None
    epoch = content.get("epoch")
    return Weights(
        name,
        _tensors(content[key], name),
        attention=None if ours else _attention(content),
        epoch=epoch if isinstance(epoch, int) else None,
        settings=str(content["config"]) if ours else "",
        classes=None if classes is None else _checked(classes, name),
    )


def _from_folder(folder: Path) -> Weights:
    """From ``config.json`` and ``model.safetensors``, or the older ``pytorch_model.bin``."""
    config = _read_config(folder / "config.json")
    attention = _attention(config)
    if isinstance(kind := config.get("attention_type"), str):
        config["attention_type"] = kind.removeprefix(SPARSE)
    if timm.is_model(str(config.get("architecture"))):
        with torch.device("meta"):
            config = _timm_config(timm.create_model(config["architecture"]))
    if (folder / "model.safetensors").is_file():
        state = _read_safetensors(folder / "model.safetensors")
    elif (file := folder / "pytorch_model.bin").is_file():
        state = _from_content(read_tensors(file), str(file)).state
    else:
        raise CheckpointError(f"no model.safetensors in {folder}")
    return Weights(str(folder), state, config, attention, classes=_labels(config, state))


def _checked(classes: object, name: str) -> tuple[str, ...]:
    try:
        return tuple(check_names(classes))
    except ClassesError as error:
        raise CheckpointError(f"{name} is damaged: its classes {error}") from error


def _labels(config: Mapping[str, object], state: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """The names in a config of Hugging Face; None where they are placeholders (LABEL_0), or not of the classifier."""
    found = config.get("id2label")
    rows = [
        tensor.shape[0]
        for name, tensor in state.items()
        if name.endswith(("classifier.weight", "head.weight")) and tensor.ndim
    ]
    if not isinstance(found, Mapping) or rows != [len(found)]:
        return None
    by_number = {str(number): label for number, label in found.items()}
    labels = [by_number.get(str(number)) for number in range(len(found))]
    if labels == [f"LABEL_{number}" for number in range(len(found))]:
        return None
    try:
        return tuple(check_names(labels))
    except ClassesError:  # such as ImageNet's, two of which are called crane
        return None


def _attention(beside: Mapping) -> Mapping[str, object]:
    """The settings of sparse attention that an export of videofib notes beside the weights."""
    note = beside.get("videofib")
    attention = note.get("attention") if isinstance(note, Mapping) else None
    return attention if isinstance(attention, Mapping) else {}


def _tensors(state: Mapping, name: object) -> dict[str, Tensor]:
    """The tensors among a checkpoint's values."""
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and isinstance(key, str)}
    if not tensors:
        raise CheckpointError(f"no weights in {name}; it holds {', '.join(sorted(map(str, state))[:8]) or 'nothing'}")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged, or not a safetensors file: {error}") from error


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return config if isinstance(config, dict) else {}


def _timm_config(model: nn.Module) -> dict[str, object]:
    """The settings of a timm ViT that its weights do not show, under Hugging Face's names."""
    if not isinstance(model, VisionTransformer):
        return {"blocks": f"of {type(model).__name__}"}
    block = model.blocks[0]
    return {
        "hidden_size": model.embed_dim,
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": "gelu" if isinstance(block.mlp.act, nn.GELU) else type(block.mlp.act).__name__,
        "layer_norm_eps": block.norm1.eps,
        "blocks": "pre-norm" if type(block) is Block else f"of {type(block).__name__}",
    }
