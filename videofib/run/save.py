"""Writes a saved model into a folder of its own, from which it loads here and, for most models, in transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from fvcore.common.config import CfgNode

import videofib
from videofib.checkpoint.file import CheckpointError
from videofib.config import default_config
from videofib.data import sampling
from videofib.data.video import clock, display, rgb
from videofib.files import describe, replacing
from videofib.metrics.tasks import MULTI_LABEL
from videofib.models import TimeSformer
from videofib.models.pretrained.export import (
    VIDEO_PROCESSOR,
    VIDEO_PROCESSOR_FILE,
    holds_dense,
    save_hugging_face,
    save_own,
)
from videofib.printable import printable
from videofib.run.parts import MODEL_SECTIONS, TASKS

if TYPE_CHECKING:
    from videofib.run.saved_model import SavedModel

# what reads videos in transformers as videofib does: needs torch, PyAV, numpy and transformers
_READING = (VIDEO_PROCESSOR_FILE, *(Path(module.__file__) for module in (sampling, clock, display, rgb)))
_FIGURES = ("top1_acc", "top5_acc", "mAP")
_PATHS = (("DATA", "PATH_TO_DATA_DIR"), ("DATA", "PATH_PREFIX"), ("TEST", "CHECKPOINT_FILE_PATH"))
_OF_TRAINING = tuple(  # in sections of the model
    ("SLIMMING", key) for key in ("TEACHER", "TOKEN_WEIGHT", "LOGIT_WEIGHT", "TEMPERATURE", "EVERY")
)
_LOCAL = re.compile(r"[/\\~].|[A-Za-z]:[/\\]|\w+://|\.\.?[/\\]")  # how paths and URLs begin
_SHOWN_CLASSES = 20  # that a model card names


def save(saved: SavedModel, folder: str | Path) -> Path:
    """Write ``model.safetensors``, ``config.json``, ``preprocessor_config.json`` and ``README.md``.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    model, note = saved.model, describe_saved(saved)
    if isinstance(model, TimeSformer) and model.first_reduction() is None:
        remote_code = not holds_dense(model)
        save_hugging_face(
            model,
            folder,
            class_names=saved.classes,
            remote_code=remote_code,
            several_classes=TASKS[saved.cfg.MODEL.LOSS_FUNC] is MULTI_LABEL,
            note=note,
        )
    else:
        save_own(model, folder, class_names=saved.classes, note=note)
    texts = {
        "preprocessor_config.json": json.dumps(_preprocessor(saved), indent=2) + "\n",
        "README.md": _card(saved),
    }
    if isinstance(model, TimeSformer):
        texts |= {file.name: file.read_text(encoding="utf-8") for file in _READING}
    try:
        for name, text in texts.items():
            with replacing(Path(folder) / name) as partial:
                partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise CheckpointError(f"cannot write {printable(folder)}: {printable(describe(error))}") from error
    return Path(folder)


def describe_saved(saved: SavedModel) -> dict[str, object]:
    """What ``load`` reads back beside the weights, and, for people, the input and versions."""
    return {
        "config": _portable(saved.cfg).dump(),
        "classes": list(saved.classes),
        "input": saved.input,
        "epoch": saved.epoch,
        "results": dict(saved.results),
        "versions": {"videofib": videofib.__version__, "torch": str(torch.__version__)},
    }


def _portable(cfg: CfgNode) -> CfgNode:
    """The sections that using the model takes, without the paths of the machine that trained it."""
    kept, defaults = CfgNode({name: cfg[name].clone() for name in (*MODEL_SECTIONS, "TEST")}), default_config()
    kept.defrost()
    for section, key in (*_PATHS, *_OF_TRAINING):
        kept[section][key] = defaults[section][key]
    for section, values in kept.items():  # of keys that a later version adds
        for key, value in values.items():
            if isinstance(value, str) and _LOCAL.match(value):
                values[key] = defaults[section][key]
    return kept


def _preprocessor(saved: SavedModel) -> dict[str, object]:
    """How a video becomes the model's input, in the words of transformers' processors, and those of our code for it."""
    given = saved.input
    return {
        "auto_map": {"AutoVideoProcessor": f"{VIDEO_PROCESSOR}.VideofibVideoProcessor"},
        **{name: given[name] for name in ("num_frames", "sampling", "sampling_rate", "target_fps")},
        "view_starts": saved.cfg.TEST.VIEW_STARTS,
        "read_short_side": saved.cfg.DATA.READ_SHORT_SIDE,
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": given["short_side"]},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": given["crop_size"], "width": given["crop_size"]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": given["mean"],
        "image_std": given["std"],
    }


def _results(saved: SavedModel) -> str:
    """A row of the card on what a test measured; empty where nothing is known."""
    if not saved.results:
        return ""
    figures = ", ".join(f"{name} {value:.1f} %" for name, value in saved.results.items() if name in _FIGURES)
    return f"| reached | {figures} of {saved.results['num_videos']} test videos |\n"


def _card(saved: SavedModel) -> str:
    given = saved.input
    clips, crops = saved.views
    if given["sampling"] == "dense":
        rate = f"{given['sampling_rate']} apart at {given['target_fps']:g} frames a second"
        frames = f"{given['num_frames']} frames, {rate}"
    else:
        frames = f"{given['num_frames']} frames, one of each equal part of the video"
    names = ", ".join(printable(name) for name in saved.classes[:_SHOWN_CLASSES])
    more = f" and {len(saved.classes) - _SHOWN_CLASSES} more" if len(saved.classes) > _SHOWN_CLASSES else ""
    return f"""---
library_name: videofib
pipeline_tag: video-classification
---

# A {saved.cfg.MODEL.MODEL_NAME} for video classification

```python
import videofib

model = videofib.load("path/to/this/folder")  # or "owner/model" on the Hugging Face Hub
print(model.predict("video.mp4"))  # [(class, probability), ...]
```

| | |
|---|---|
| classes | {len(saved.classes)}: {names}{more} |
| input | {frames}, {given["crop_size"]} pixels |
| tested with | {clips} x {crops} views |
| parameters | {sum(parameter.numel() for parameter in saved.model.parameters()):,} |
{_results(saved)}
What it was trained on, for what it may be used, and how well it does is for its authors to say here.
"""
