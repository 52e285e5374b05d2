"""Read weights from files, folders and modules, as tensors and plain values, never as code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from videofib.checkpoint.file import CheckpointError, read_tensors
from videofib.checkpoint.foreign import Standin
from videofib.classes import ClassesError, check_names
from videofib.models.pretrained import adapters
from videofib.models.pretrained.file_parts import find_part
from videofib.models.pretrained.hub import locate
from videofib.models.pretrained.layouts import SPARSE
from videofib.models.pretrained.model_settings import Settings, of_hugging_face, of_module
from videofib.models.timesformer import TimeSformer
from videofib.models.wrappers import unwrapped
from videofib.printable import printable

_TIMM_OPTIONS = (  # those that weights do not show; as a config may come from anyone, no other is passed on
    *("embed_dim", "num_heads", "act_layer", "norm_layer", "global_pool", "pool_include_prefix", "fc_norm"),
    *("final_norm", "class_token", "pos_embed", "no_embed_class", "reg_tokens", "pre_norm", "qk_norm"),
    *("scale_attn_norm", "scale_mlp_norm", "dynamic_img_size"),
)


@dataclass(frozen=True)
class Weights:
    """The tensors of a model under the names that its file gives them, and what the file says beside them.

    Attributes:
        name: the file, folder or class, for messages.
        state: the tensors by name, without the prefix of wrappers.
        part, others: which of the file's models it is, and which others there are (:mod:`.parts`).
        model: the settings of the model that its module or config states, as :mod:`.settings` names them.
        attention: which attention was sparse (:meth:`TimeSformer.attention_settings`), empty if it was dense, None if
            that is not known.
        epoch: epochs trained, if the checkpoint or folder says so.
        settings: the config of the run that trained it, as YAML; of our own checkpoints and folders only.
        described, preprocessor: what a folder's ``config.json`` and ``preprocessor_config.json`` say.
        classes: the names of its classes, None where it has none or does not name them.
        tasks: of a model of several tasks, the same of each by its name; empty where there is one.
    """

    name: str
    state: dict[str, Tensor]
    part: str = ""
    others: tuple[str, ...] = ()
    model: Settings = field(default_factory=dict)
    attention: Mapping[str, object] | None = None
    epoch: int | None = None
    settings: str = ""
    described: Mapping[str, object] = field(default_factory=dict)
    preprocessor: Mapping[str, object] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    tasks: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)


def read_weights(
    weights: str | Path | nn.Module | Mapping[str, object], part: str | None = None, *, name: str = "a state dict"
) -> Weights:
    """Read a checkpoint file, a folder of Hugging Face or timm, a module of theirs, or a loaded file's content.

    A folder of a LoRA adapter is read with its base model, which lies beside it or where its config says, and merged.

    Args:
        part: of a file that holds several models, which one: a key of the file, or a prefix of the tensors' names,
            such as ``teacher`` or ``state_dict``. By default, of a model and its moving average, the average.
        name: of a file whose content this is, for messages.

    Raises:
        CheckpointError: a file that is missing, damaged, holds code, holds no weights, or holds several models of
            which ``part`` names none; the message lists them.
    """
    if isinstance(weights, nn.Module):
        return _from_module(weights, part)
    if isinstance(weights, Mapping):
        return _from_content(weights, name, part)
    path = Path(weights)
    if path.is_dir() and path.suffix != ".dcp":  # a .dcp folder is a checkpoint of ours
        return _from_folder(path, part)
    if path.suffix == ".safetensors":
        return _from_content(_read_safetensors(path), str(weights), part)
    return _from_content(read_tensors(path, of_others=True), str(weights), part)


def _from_module(module: nn.Module, part: str | None) -> Weights:
    module = unwrapped(module)
    found = _from_content(module.state_dict(), type(module).__name__, part)
    attention = module.attention_settings() if isinstance(module, TimeSformer) else {}
    config = module.config.to_dict() if hasattr(module, "config") else {}
    return replace(found, model=of_module(module), attention=attention, classes=_labels(config, found.state))


def _from_content(content: object, name: str, part: str | None) -> Weights:
    """From what ``torch.load`` returned: a state dict, or a dict that holds some."""
    if isinstance(content, Standin):
        raise _not_a_state_dict(name, content)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{name} holds no weights, only one {type(content).__name__}")
    try:
        found = find_part(content, part)
    except ValueError as error:
        raise CheckpointError(f"{name} cannot be used: {error}") from error
    if not found.state:
        if objects := [value for value in content.values() if isinstance(value, Standin)]:
            raise _not_a_state_dict(name, objects[0])
        raise CheckpointError(f"no weights in {name}; it holds {', '.join(sorted(map(str, content))[:8]) or 'nothing'}")
    if any(".lora_A." in tensor for tensor in found.state):
        raise CheckpointError(
            f"{name} holds a LoRA adapter that is not merged; name its folder, with {adapters.CONFIG}, or merge it "
            "(merge_and_unload)"
        )
    is_checkpoint = not any(isinstance(value, Tensor) for value in content.values())
    ours = content.keys() >= {"config", "versions"}
    beside = content if ours else content.get("videofib")
    classes = beside.get("classes") if isinstance(beside, Mapping) else None
    tasks = content.get("tasks") if ours else None
    epoch = content.get("epoch")
    return Weights(
        name,
        found.state,
        found.name,
        found.others,
        attention=_attention(content) if is_checkpoint and not ours else None,
        epoch=epoch if isinstance(epoch, int) else None,
        settings=str(content["config"]) if ours else "",
        classes=None if classes is None else _checked(classes, name),
        tasks={
            str(task): None if names is None else _checked(names, name)
            for task, names in (tasks.items() if isinstance(tasks, Mapping) else ())
        },
    )


def _not_a_state_dict(name: str, found: Standin) -> CheckpointError:
    return CheckpointError(
        f"{printable(name)} holds an object of {printable(found.stands_for)}, not weights, and code from files is "
        "never run; save its state_dict() alone"
    )


def _from_folder(folder: Path, part: str | None) -> Weights:
    """From a model's folder, or from that of an adapter of one."""
    file = folder / adapters.CONFIG
    if not file.is_file():
        return _from_model_folder(folder, part)
    config = _read_config(file)
    try:
        named = adapters.base_of(folder, config)
        base = folder if named == str(folder) else locate(named)
        if base != folder and (base / adapters.CONFIG).is_file():
            raise ValueError(f"its base model {printable(named)} is an adapter, too; merge that first")
        found = _from_model_folder(base, part) if base.is_dir() else read_weights(base, part)
        tensors = _read_safetensors(folder / adapters.WEIGHTS)
        state, has_classifier = adapters.merge(found.state, tensors, config)
    except ValueError as error:
        raise CheckpointError(f"the adapter in {folder} cannot be used: {error}") from error
    name = f"{folder} (LoRA, merged into {'the base model beside it' if base == folder else named})"
    return replace(found, name=name, state=state, classes=None if has_classifier else found.classes)


def _from_model_folder(folder: Path, part: str | None) -> Weights:
    """From ``config.json`` and ``model.safetensors``, in one file or several, or the older ``pytorch_model.bin``."""
    config = _read_config(folder / "config.json")
    described = dict(config)
    attention = _attention(config)
    if isinstance(kind := config.get("attention_type"), str):
        config["attention_type"] = kind.removeprefix(SPARSE)
    if timm.is_model(str(config.get("architecture"))):
        model = of_module(_timm_model(config, folder / "config.json"))
    else:
        model = of_hugging_face(config)
    if (folder / "model.safetensors").is_file():
        found = _from_content(_read_safetensors(folder / "model.safetensors"), str(folder), part)
    elif (index := folder / "model.safetensors.index.json").is_file():
        found = _from_content(_read_safetensor_shards(index), str(folder), part)
    elif (file := folder / "pytorch_model.bin").is_file():
        found = replace(_from_content(read_tensors(file, of_others=True), str(file), part), name=str(folder))
    else:
        raise CheckpointError(f"no model.safetensors in {folder}")
    note = config["videofib"] if isinstance(config.get("videofib"), dict) else {}  # of folders of ours
    return replace(
        found,
        model=model,
        attention=attention,
        settings=settings if isinstance(settings := note.get("config"), str) else "",
        epoch=epoch if isinstance(epoch := note.get("epoch"), int) else None,
        described=described,
        preprocessor=_read_config(folder / "preprocessor_config.json"),
        classes=_labels(config, found.state) if note.get("classes") is None else _checked(note["classes"], str(folder)),
    )


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


def _timm_model(config: Mapping, file: Path) -> nn.Module:
    """The model that a config of timm describes, without memory for its weights.

    Raises:
        CheckpointError: options that it does not take.
    """
    stated = config.get("model_args")
    options = {
        name: value
        for name, value in (stated if isinstance(stated, dict) else {}).items()
        if name in _TIMM_OPTIONS and isinstance(value, (str, int, float))
    }
    try:
        with torch.device("meta"):
            model = timm.create_model(config["architecture"], **options)
    except Exception as error:  # as many ways as there are models
        raise CheckpointError(f"{file} describes no model of timm: {str(error)[:200]}") from error
    if isinstance(model, VisionTransformer) and isinstance(pooling := config.get("global_pool"), str):
        model.global_pool = pooling  # where it was changed after the model was built
    return model


def _attention(beside: Mapping) -> Mapping[str, object]:
    """The settings of sparse attention that an export of videofib notes beside the weights."""
    note = beside.get("videofib")
    attention = note.get("attention") if isinstance(note, Mapping) else None
    return attention if isinstance(attention, Mapping) else {}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged, or not a safetensors file: {printable(error)}") from error


def _read_safetensor_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of a model in several files of one folder, which ``index`` lists by tensor.

    Raises:
        CheckpointError: the index is damaged, names files elsewhere, or tensors that their files lack.
    """
    named = _read_config(index).get("weight_map")
    if not (isinstance(named, dict) and named and all(isinstance(file, str) for file in named.values())):
        raise CheckpointError(f"{index} is damaged: it has no weight_map from tensors to files")
    state: dict[str, Tensor] = {}
    for file in sorted(set(named.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {printable(file)}, which is not a safetensors file beside it")
        state |= _read_safetensors(index.parent / file)
    if missing := [name for name in named if name not in state]:
        raise CheckpointError(f"{index} names tensors that its files lack, such as {printable(missing[0])}")
    return state


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return config if isinstance(config, dict) else {}
