"""LoRA adapters of PEFT: low-rank changes of some layers, merged into the weights of their base model.

    W + s·B·A   A (r, in), B (out, r), s = alpha / r (arXiv 2106.09685, section 4.1), or alpha / √r (arXiv 2312.03732)

An adapter's folder has ``adapter_config.json`` and ``adapter_model.safetensors``. Its names are those of the modules
that were trained, which since transformers 5 are others than those in the files of the same model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from videofib.models.pretrained.layouts import State, canonical, is_classifier
from videofib.printable import printable

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WRAPPERS = re.compile(  # what base models may have in front of their names
    r"(base_model|model|module|_orig_mod|backbone|vit|deit|vivit|clip|timesformer|videomae|dinov2(_with_registers)?|"
    r"vision_model)\."
)
_WITHIN = re.compile(r"\.(base_layer|modules_to_save|default)(?=\.)")  # PEFT's own modules within a layer
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # others change the base model's weights, too
_OTHER_KINDS = (  # of adapters, each of which computes something else where it is set
    *("fan_in_fan_out", "lora_bias", "layer_replication", "alora_invocation_tokens", "trainable_token_indices"),
    *("target_parameters", "arrow_config", "monteclora_config", "velora_config", "kasa_config"),
)
_SHOWN = 4  # tensors that an error names


def base_of(folder: Path, config: Mapping[str, object]) -> str:
    """Where the base model lies: in the adapter's own folder, or where its config says.

    Raises:
        ValueError: neither.
    """
    if any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return str(folder)
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ValueError(
            f"{CONFIG} names no base model; copy the base model's config.json and model.safetensors into the folder"
        )
    return named


def merge(state: State, adapter: State, config: Mapping[str, object]) -> tuple[State, bool]:
    """The base model's tensors with the adapter's changes, and whether its classifier is the adapter's.

    Raises:
        ValueError: another kind of adapter, or one of another model; the message names its setting, or its tensors.
    """
    _check(config)
    own = {canonical(name): name for name in state}
    changes: dict[str, State] = {}
    replaced: State = {}
    for name, tensor in adapter.items():
        short = _WITHIN.sub("", name)
        if part := re.fullmatch(r"(.+)\.lora_([AB])\.weight", short):
            changes.setdefault(part[1], {})[part[2]] = tensor
        elif ".lora_" in short:
            raise ValueError(f"{printable(name)} is not of a plain LoRA adapter")
        else:
            replaced[short] = tensor
    if not changes and not replaced:
        raise ValueError("the adapter holds no tensors")
    merged = dict(state)
    targets = {layer: _find(own, f"{layer}.weight") for layer in changes}
    if missing := [layer for layer, target in targets.items() if target is None]:
        shown = ", ".join(map(printable, missing[:_SHOWN]))
        raise ValueError(f"the adapter changes layers that the base model does not have, such as {shown}")
    for layer, pair in changes.items():
        name = targets[layer]
        assert name is not None  # checked above
        merged[name] = _changed(state[name], pair, layer, config)
    has_classifier = False
    for layer, tensor in replaced.items():
        name = _find(own, layer) or _bare(layer)
        classifies = is_classifier(name)
        if name in state and state[name].shape != tensor.shape and not classifies:
            raise ValueError(
                f"{printable(layer)} is {tuple(tensor.shape)} in the adapter and {tuple(state[name].shape)} in the "
                "base model"
            )
        has_classifier |= classifies
        merged[name] = tensor
    return merged, has_classifier


def _changed(weight: Tensor, pair: Mapping[str, Tensor], layer: str, config: Mapping[str, object]) -> Tensor:
    """W + s·B·A; of convolutions B is (out, r, 1, 1) and A (r, in, height, width)."""
    down, up = pair.get("A"), pair.get("B")
    if down is None or up is None or min(down.ndim, up.ndim, weight.ndim) < 2:
        raise ValueError(f"{printable(layer)} lacks lora_A or lora_B")
    if not (down.is_floating_point() and up.is_floating_point()):
        raise ValueError(f"{printable(layer)} has {down.dtype} and {up.dtype} in the adapter, which are not numbers")
    down, up = down.float().flatten(1), up.float().flatten(1)
    rank = down.shape[0]
    if up.shape[1] != rank or (up.shape[0], down.shape[1]) != weight.flatten(1).shape or not rank:
        raise ValueError(
            f"the change of {printable(layer)} is {tuple(up.shape)} times {tuple(down.shape)}, and the base model's "
            f"weight {tuple(weight.shape)}"
        )
    scale = _alpha(layer, config) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return weight.float() + scale * (up @ down).view_as(weight)


def _alpha(layer: str, config: Mapping[str, object]) -> float:
    """That of the layer: the first of ``alpha_pattern`` that its name ends with, or ``lora_alpha``."""
    pattern = config.get("alpha_pattern")
    found = config.get("lora_alpha")
    for ending, value in (pattern if isinstance(pattern, Mapping) else {}).items():
        if not re.fullmatch(r"[\w.]+", str(ending)):  # PEFT takes expressions, which may take for ever
            raise ValueError(f"alpha_pattern of {CONFIG} has {printable(ending)}; names of layers alone are understood")
        if f".{layer}".endswith(f".{ending}"):
            found = value
            break
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise ValueError(f"lora_alpha of {CONFIG} is {printable(found)}, not a number")
    return float(found)


def _check(config: Mapping[str, object]) -> None:
    """Raise ValueError for what is not a plain LoRA adapter."""
    if config.get("peft_type") != "LORA":
        raise ValueError(f"it is an adapter of type {printable(config.get('peft_type'))}; LORA alone is merged")
    uses = [name for name, value in config.items() if name.startswith("use_") and value and name != "use_rslora"]
    if found := [*uses, *(name for name in _OTHER_KINDS if config.get(name))]:
        raise ValueError(f"it is not a plain LoRA adapter: {CONFIG} sets {printable(', '.join(found[:_SHOWN]))}")
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        raise ValueError(
            f"its base model was changed, too, since init_lora_weights is {printable(config['init_lora_weights'])}; "
            "save the merged model (merge_and_unload) and load that"
        )


def _find(own: Mapping[str, str], name: str) -> str | None:
    """The base model's name of a tensor that the adapter calls ``name``, None where it has none."""
    while (found := own.get(canonical(name))) is None:
        wrapper = _WRAPPERS.match(name)
        if wrapper is None:
            return None
        name = name[wrapper.end() :]
    return found


def _bare(name: str) -> str:
    while wrapper := _WRAPPERS.match(name):
        name = name[wrapper.end() :]
    return name
