"""The settings, as ``KEY VALUE`` words, of models that others have saved in Hugging Face's TimeSformer layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videofib.checkpoint.file import CheckpointError
from videofib.models.pretrained.weight_files import Weights
from videofib.printable import printable

_KEYS = {  # of config.json -> ours; the values mean the same
    "attention_type": "TIMESFORMER.ATTENTION_TYPE",
    "patch_size": "TIMESFORMER.PATCH_SIZE",
    "hidden_size": "TIMESFORMER.EMBED_DIM",
    "num_hidden_layers": "TIMESFORMER.DEPTH",
    "num_attention_heads": "TIMESFORMER.NUM_HEADS",
    "qkv_bias": "TIMESFORMER.QKV_BIAS",
    "layer_norm_eps": "TIMESFORMER.NORM_EPS",
    "num_frames": "DATA.NUM_FRAMES",
}
_SIZES = ("hidden_size", "intermediate_size", "image_size")


def settings_of(weights: Weights) -> list[object] | None:
    """The words that describe the model and its input, as far as its folder does; None for other kinds of models.

    Frames are scaled to the crop's size and normalised as TimeSformer does, unless ``preprocessor_config.json`` says
    otherwise.

    Raises:
        CheckpointError: its ``config.json`` lacks an entry, or has one of another type.
    """
    found: Mapping[str, Any] = weights.described
    if found.get("model_type") != "timesformer":
        return None
    missing = [name for name in _KEYS if not isinstance(found.get(name), str | int | float)]
    missing += [name for name in _SIZES if type(found.get(name)) is not int or found[name] < 1]
    if missing:
        raise CheckpointError(f"config.json in {printable(weights.name)} has no usable {', '.join(missing)}")
    words: list[object] = ["MODEL.MODEL_NAME", "TimeSformer", "MODEL.NUM_CLASSES", _num_classes(weights)]
    for name, key in _KEYS.items():
        words += [key, found[name]]
    for key in ("DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE"):
        words += [key, found["image_size"]]
    short_side = _short_side(weights.preprocessor, found["image_size"])
    words += ["DATA.TRAIN_JITTER_SCALES", [short_side, short_side]]
    words += ["TIMESFORMER.MLP_RATIO", found["intermediate_size"] / found["hidden_size"]]
    return [*words, *_pixels(weights.preprocessor)]


def _num_classes(weights: Weights) -> int:
    rows = [tensor.shape[0] for name, tensor in weights.state.items() if name == "classifier.weight"]
    if not rows:
        raise CheckpointError(f"{printable(weights.name)} has no classifier; train from it instead")
    return rows[0]


def _short_side(preprocessor: Mapping[str, object], crop_size: int) -> int:
    """Pixels to which the shorter side of a frame is scaled before its centre is cropped."""
    size = preprocessor.get("size")
    stated = size.get("shortest_edge") if isinstance(size, Mapping) else None
    return stated if type(stated) is int and stated >= crop_size else crop_size


def _pixels(preprocessor: Mapping[str, object]) -> list[object]:
    words: list[object] = []
    for name, key in (("image_mean", "DATA.MEAN"), ("image_std", "DATA.STD")):
        if isinstance(values := preprocessor.get(name), list):
            words += [key, values]
    return words
